"""How the tests open pipelines on generated data."""

from pathlib import Path

import numpy as np

from data_pipelines.action_spaces import relative_pose
from data_pipelines.config import CropConfig, DataConfig, MixtureEntry
from data_pipelines.pipeline import Pipeline, open_pipeline
from vla_jax.types import CameraRequirement, DataRequirements

TEXT_LENGTH = 32
BOTH = {"bridge_dataset": 1.0, "fractal20220817_data": 1.0}


def tokenize_bytes(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.zeros((len(texts), TEXT_LENGTH), np.int32)
    for row, text in zip(tokens, texts):
        values = list(text.encode())[:TEXT_LENGTH]
        row[: len(values)] = values
    return tokens, tokens > 0


def text_of(tokens: np.ndarray) -> str:
    return bytes(tokens[tokens > 0].astype(np.uint8)).decode()


def requirements(
    *, window=3, anchor="first", horizon=2, normalization="none", cameras=("primary",), size=(16, 16)
) -> DataRequirements:
    return DataRequirements(
        action_space=relative_pose.action_space(horizon, normalization),
        cameras=tuple(CameraRequirement(slot=slot, height=size[0], width=size[1]) for slot in cameras),
        window=window,
        window_anchor=anchor,
        text_length=TEXT_LENGTH,
    )


def open_generated(
    root: Path | str,
    *,
    mixture=None,
    needs: DataRequirements | None = None,
    seed: int = 5,
    batch_size: int = 4,
    crop: CropConfig | None = None,
    quarantine: Path | None = None,
    statistics=None,
    cache: Path | None = None,
    **data,
) -> Pipeline:
    mixture = mixture or {"bridge_dataset": 1.0}
    config = DataConfig(
        root=str(root),
        mixture=tuple(MixtureEntry(name=name, weight=weight) for name, weight in mixture.items()),
        crop=crop,
        **data,
    )
    return open_pipeline(
        config,
        needs or requirements(),
        tokenize_bytes,
        seed=seed,
        batch_size=batch_size,
        cache=cache or Path(root) / "cache",
        quarantine=quarantine,
        statistics=statistics,
    )
