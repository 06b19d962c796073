"""What stands between a robot and EF-VLA: pictures, words and numbers in; actions in real units out.

Needs numpy, Pillow, tokenizers and torch. Axes: w window, y x pixels, p proprio, h horizon, a action.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from PIL import Image
from transformers.utils import cached_file

from .configuration_ef_vla import EfVlaConfig

STATISTICS = "dataset_statistics.json"
SETTINGS = "preprocessor_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
CONSTANT = 1e-6
"""A dimension whose range is at most this share of its magnitude is constant: it is neither scaled nor predicted."""
FLOORS = {"metre": 1e-4, "radian": 2e-4, "1": 2e-4}
"""Smallest divisor by unit, so that the noise of a dimension that hardly moves is not blown up."""
HUB_KEYS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


class EfVlaProcessor:
    """Prepares observations as they were prepared in training, and undoes the normalisation of actions."""

    def __init__(self, config: EfVlaConfig, files: dict[str, Path]):
        """Args: files: STATISTICS, SETTINGS and TOKENIZER_FILES by name."""
        self.config = config
        self.files = files
        self.statistics = json.loads(files[STATISTICS].read_text())
        self.settings = json.loads(files[SETTINGS].read_text())
        pad = json.loads(files["special_tokens_map.json"].read_text())["pad_token"]
        self.tokenizer = tokenizers.Tokenizer.from_file(str(files["tokenizer.json"]))
        self.tokenizer.enable_truncation(config.text_length)
        pad_id = self.tokenizer.token_to_id(pad)
        self.tokenizer.enable_padding(length=config.text_length, pad_id=pad_id, pad_token=pad)

    # ---- loading and saving

    @classmethod
    def from_pretrained(cls, path: Any, **kwargs: Any) -> "EfVlaProcessor":
        hub = {key: kwargs[key] for key in HUB_KEYS if key in kwargs}
        names = (STATISTICS, SETTINGS, *TOKENIZER_FILES)
        files = {name: Path(cached_file(path, name, **hub)) for name in names}
        return cls(EfVlaConfig.from_pretrained(path, **hub), files)

    def save_pretrained(self, folder: Any) -> None:
        for name, source in self.files.items():
            if source.resolve() != (Path(folder) / name).resolve():
                shutil.copyfile(source, Path(folder) / name)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """AutoProcessor calls this; the folder's files already name this class."""

    # ---- to the model

    def __call__(
        self,
        images: dict[str, Any],
        proprio: Any,
        instruction: str,
        unnorm_key: str | None = None,
    ) -> dict[str, Any]:
        """One window as a batch of one, ready for `model(**batch)`. Arguments as in `predict_action`."""
        if unknown := sorted(set(images) - set(self.config.cameras)):
            raise ValueError(f"images of unknown cameras {unknown}; this model reads {self.config.cameras}")
        proprio = np.atleast_2d(np.asarray(proprio, np.float32))
        if proprio.shape[1:] != (len(self.config.action_space["proprio"]),) or not np.isfinite(proprio).all():
            names = [dimension["name"] for dimension in self.config.action_space["proprio"]]
            raise ValueError(f"proprio of shape {list(proprio.shape)}; finite numbers are expected: {names} a step")
        steps = len(proprio)
        tensors, masks = {}, {}
        for slot in self.config.cameras:
            pictures = self._pictures(slot, images.get(slot), steps)
            tensors[slot] = torch.from_numpy(pictures)[None]
            masks[slot] = torch.full((1, steps), images.get(slot) is not None)
        if not any(mask.any() for mask in masks.values()):
            raise ValueError(f"no picture at all; this model reads the cameras {self.config.cameras}")
        ids, text_mask = self.tokenize([instruction])
        return {
            "images": tensors,
            "image_masks": masks,
            "proprio": torch.from_numpy(self.normalize_proprio(proprio, unnorm_key))[None],
            "timestep_mask": torch.ones(1, steps, dtype=torch.bool),
            "input_ids": ids,
            "attention_mask": text_mask,
        }

    def tokenize(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """int64 ids and bool mask [b, t]."""
        encodings = self.tokenizer.encode_batch(texts)
        mask = torch.tensor([encoding.attention_mask for encoding in encodings], dtype=torch.bool)
        return torch.tensor([encoding.ids for encoding in encodings]), mask

    def resize(self, picture: Any) -> np.ndarray:
        """uint8 RGB [y, x, 3] of the model's size: Pillow's bicubic with antialiasing, stretched, as in training."""
        size = self.config.image_size
        if not isinstance(picture, Image.Image):
            array = np.asarray(picture)
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
                raise ValueError(f"a picture of {array.dtype} {list(array.shape)}; uint8 RGB [y, x, 3] is expected")
            picture = Image.fromarray(array)
        picture = picture.convert("RGB")
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.BICUBIC)
        return np.array(picture)

    @staticmethod
    def to(batch: dict[str, Any], device: Any) -> dict[str, Any]:
        return {
            key: {slot: tensor.to(device) for slot, tensor in value.items()}
            if isinstance(value, dict)
            else value.to(device)
            for key, value in batch.items()
        }

    def _pictures(self, slot: str, pictures: Any, steps: int) -> np.ndarray:
        if pictures is None:
            size = self.config.image_size
            return np.zeros((steps, size, size, 3), np.uint8)
        if isinstance(pictures, Image.Image) or np.ndim(pictures) == 3:
            pictures = [pictures]
        if len(pictures) != steps:
            raise ValueError(f"{len(pictures)} pictures of {slot!r}, but {steps} rows of proprio; one each is expected")
        return np.stack([self.resize(picture) for picture in pictures])

    # ---- numbers

    def normalize_proprio(self, proprio: np.ndarray, unnorm_key: str | None = None) -> np.ndarray:
        return self._normalize(proprio, "proprio", unnorm_key)

    def normalize_action(self, action: np.ndarray, unnorm_key: str | None = None) -> np.ndarray:
        """For fine-tuning: actions in real units to what `forward` takes as its targets."""
        return self._normalize(action, "action", unnorm_key)

    def unnormalize_action(self, action: np.ndarray, unnorm_key: str | None = None) -> np.ndarray:
        """Normalised actions [..., a] to the units of the action space."""
        shift, scale, _ = self._affine("action", unnorm_key)
        return (np.asarray(action, np.float64) * scale + shift).astype(np.float32)

    def absolute_poses(self, chunk: np.ndarray, proprio: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Relative actions to poses in the robot's base frame.

        Args:
            chunk: [h, 10], as `predict_action` gives it.
            proprio: [10], of the step at which the chunk was predicted, not normalised.

        Returns:
            Positions in metres [h, 3], rotation matrices [h, 3, 3], gripper openness [h] (1 open, 0 closed).
        """
        form = self.config.action_space["form"]
        if form != "relative_pose":
            raise ValueError(f"actions of this model are {form!r}; only 'relative_pose' is relative to a gripper pose")
        chunk, here = np.asarray(chunk, np.float64), np.asarray(proprio, np.float64)
        rotation = _rotation(here[None, 3:9])[0]
        return chunk[:, :3] @ rotation.T + here[:3], rotation @ _rotation(chunk[:, 3:9]), chunk[:, 9]

    def _normalize(self, x: np.ndarray, kind: str, unnorm_key: str | None) -> np.ndarray:
        shift, scale, clip = self._affine(kind, unnorm_key)
        y = np.where(scale == 0, 0, (x - shift) / np.where(scale == 0, 1, scale)).astype(np.float32)
        return np.where(clip, np.clip(y, -1, 1), y)

    def _affine(self, kind: str, unnorm_key: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shift, scale (0 where the dimension is constant) and whether the normalised value is clipped, each [d]."""
        values = {name: np.asarray(value, np.float64) for name, value in self._statistics(unnorm_key)[kind].items()}
        mode = self.config.action_space["normalization"]
        if mode == "gaussian":
            shift, scale, span = values["mean"], values["std"], values["max"] - values["min"]
        else:
            low, high = ("q01", "q99") if mode == "quantile" else ("min", "max")
            span = values[high] - values[low]
            shift, scale = (values[high] + values[low]) / 2, span / 2
        applies = values["mask"].astype(bool) & (mode != "none")
        magnitude = np.maximum(np.abs(values["max"]), np.abs(values["min"]))
        dimensions = self.config.action_space["dimensions" if kind == "action" else "proprio"]
        floor = np.array([FLOORS.get(dimension["unit"], 0.0) for dimension in dimensions])
        scale = np.where(span <= CONSTANT * magnitude, 0, np.maximum(scale, floor))
        clip = applies & (mode in ("bounds", "quantile"))
        return np.where(applies, shift, 0), np.where(applies, scale, 1), clip

    def _statistics(self, unnorm_key: str | None) -> dict[str, Any]:
        keys = sorted(self.statistics)
        if unnorm_key is None and len(keys) == 1:
            return self.statistics[keys[0]]
        if unnorm_key not in self.statistics:
            raise ValueError(f"unnorm_key={unnorm_key!r}: name the dataset whose statistics apply, one of {keys}")
        return self.statistics[unnorm_key]


def _rotation(rows: np.ndarray) -> np.ndarray:
    """[n, 6] to rotation matrices [n, 3, 3]: Gram-Schmidt on two rows, the third their cross product."""
    first = rows[:, :3] / np.linalg.norm(rows[:, :3], axis=1, keepdims=True)
    second = rows[:, 3:6] - (first * rows[:, 3:6]).sum(axis=1, keepdims=True) * first
    second = second / np.linalg.norm(second, axis=1, keepdims=True)
    return np.stack([first, second, np.cross(first, second)], axis=1)
