"""Generated RLDS datasets with the feature trees of real ones: small, seeded, written by `data_pipelines.writer`.

Every picture is one flat colour that tells its episode, step and camera (`colour_of`), so that a test can say which
picture it was given. Axes: time.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import simplejpeg
from scipy.spatial.transform import Rotation

from data_pipelines.index.dataset_directory import Feature
from data_pipelines.writer import DatasetWriter, Episode

BOOL, INT, FLOAT = (Feature("number", (), dtype) for dtype in ("bool", "int32", "float32"))
TEXT = Feature("text")


def numbers(*shape: int, dtype: str = "float32") -> Feature:
    return Feature("number", shape, dtype)


BRIDGE_CAMERAS = tuple(f"steps/observation/image_{number}" for number in range(4))
BRIDGE = {
    "steps/action": numbers(7),
    "steps/discount": FLOAT,
    "steps/is_first": BOOL,
    "steps/is_last": BOOL,
    "steps/is_terminal": BOOL,
    "steps/language_embedding": numbers(512),
    "steps/language_instruction": TEXT,
    "steps/observation/state": numbers(7),
    "steps/reward": FLOAT,
    "episode_metadata/episode_id": INT,
    "episode_metadata/file_path": TEXT,
    "episode_metadata/has_language": BOOL,
    **{f"episode_metadata/has_image_{number}": BOOL for number in range(4)},
}
FRACTAL_CAMERAS = ("steps/observation/image",)
FRACTAL = {
    **{f"aspects/{name}": BOOL for name in ("already_success", "feasible", "has_aspects", "success", "undesirable")},
    **{
        key: feature
        for name in ("collection_mode", "data_type", "env", "location", "objects_family", "task_family")
        for key, feature in (
            (f"attributes/{name}", numbers(dtype="int64")),
            (f"attributes/{name}_name", TEXT),
        )
    },
    "steps/action/base_displacement_vector": numbers(2),
    "steps/action/base_displacement_vertical_rotation": numbers(1),
    "steps/action/gripper_closedness_action": numbers(1),
    "steps/action/rotation_delta": numbers(3),
    "steps/action/terminate_episode": numbers(3, dtype="int32"),
    "steps/action/world_vector": numbers(3),
    "steps/is_first": BOOL,
    "steps/is_last": BOOL,
    "steps/is_terminal": BOOL,
    "steps/observation/base_pose_tool_reached": numbers(7),
    "steps/observation/gripper_closed": numbers(1),
    "steps/observation/gripper_closedness_commanded": numbers(1),
    "steps/observation/height_to_bottom": numbers(1),
    "steps/observation/natural_language_embedding": numbers(512),
    "steps/observation/natural_language_instruction": TEXT,
    "steps/observation/orientation_box": numbers(2, 3),
    "steps/observation/orientation_start": numbers(4),
    "steps/observation/robot_orientation_positions_box": numbers(3, 3),
    "steps/observation/rotation_delta_to_go": numbers(3),
    "steps/observation/src_rotation": numbers(4),
    "steps/observation/vector_to_go": numbers(3),
    "steps/observation/workspace_bounds": numbers(3, 3),
    "steps/reward": FLOAT,
}
Edit = Callable[[int, Episode], None]


def colour_of(episode: int, step: int, camera: int) -> tuple[int, int, int]:
    """Far enough apart for JPEG: levels of 16 for step and episode, 60 for the camera."""
    return 8 + 16 * (step % 15), 8 + 16 * (episode % 15), 30 + 60 * camera


def picture(episode: int, step: int, camera: int, size: tuple[int, int]) -> bytes:
    flat = np.full((*size, 3), colour_of(episode, step, camera), np.uint8)
    return simplejpeg.encode_jpeg(flat, quality=95, colorspace="RGB")


def write_bridge(
    root: Path, *, lengths=(10, 7, 4), size=(32, 32), shards=2, edit: Edit | None = None, splits=("train",)
):
    """`root/bridge_dataset/1.0.0`, WidowX-like; `edit(episode number, episode)` may damage it. Gives its folder."""
    features = BRIDGE | {key: Feature("image", (*size, 3), "uint8") for key in BRIDGE_CAMERAS}
    writer = DatasetWriter("bridge_dataset", "1.0.0", features)
    return _write(
        writer, root, splits, lengths, shards, edit, lambda number, length: bridge_episode(number, length, size)
    )


def write_fractal(root: Path, *, lengths=(6, 9), size=(24, 40), shards=1, edit: Edit | None = None, splits=("train",)):
    """`root/fractal20220817_data/0.1.0`, RT-1-like: one camera, another shape, dict actions, 3 Hz."""
    features = FRACTAL | {key: Feature("image", (*size, 3), "uint8") for key in FRACTAL_CAMERAS}
    writer = DatasetWriter("fractal20220817_data", "0.1.0", features)
    return _write(
        writer, root, splits, lengths, shards, edit, lambda number, length: fractal_episode(number, length, size)
    )


def bridge_episode(number: int, length: int, size: tuple[int, int]) -> Episode:
    generator = np.random.default_rng(number)
    state = np.cumsum(generator.normal(size=(length, 7)) * 0.02, axis=0) + [0.3, 0, 0.1, 0.1, -0.2, 0.4, 0]
    state[:, 6] = np.clip(0.5 + generator.normal(size=length), 0, 1)
    action = generator.normal(size=(length, 7)) * 0.02
    action[:, 6] = generator.choice([0.0, 0.3, 1.0], length)
    return {
        "steps/action": action,
        "steps/observation/state": state,
        "steps/language_instruction": [f"put object {number} in the pot"] * length,
        "steps/language_embedding": generator.normal(size=(length, 512)),
        "steps/discount": np.ones(length),
        "steps/reward": np.zeros(length),
        **_flags(length),
        "episode_metadata/episode_id": 1000 + number,
        "episode_metadata/file_path": f"/recordings/{number}",
        "episode_metadata/has_language": True,
        **{f"episode_metadata/has_image_{camera}": camera < 3 for camera in range(4)},
        **{
            key: [picture(number, step, camera, size) for step in range(length)]
            for camera, key in enumerate(BRIDGE_CAMERAS)
        },
    }


def fractal_episode(number: int, length: int, size: tuple[int, int]) -> Episode:
    generator = np.random.default_rng(100 + number)
    tool = np.zeros((length, 7))
    tool[:, :3] = np.cumsum(generator.normal(size=(length, 3)) * 0.05, axis=0) + [0.6, 0.1, 0.9]
    tool[:, 3:] = Rotation.from_rotvec(np.cumsum(generator.normal(size=(length, 3)) * 0.1, axis=0)).as_quat()
    given = {
        "steps/observation/base_pose_tool_reached": tool,
        "steps/observation/gripper_closed": generator.uniform(size=(length, 1)),
        "steps/action/gripper_closedness_action": generator.choice([-1.0, 0.0, 1.0], (length, 1)),
        "steps/observation/natural_language_instruction": [f"pick can {number}"] * length,
        "steps/observation/image": [picture(number, step, 3, size) for step in range(length)],
        **_flags(length),
    }
    for key, feature in FRACTAL.items():
        if key in given:
            continue
        in_steps = key.startswith("steps/")
        shape = (length, *feature.shape) if in_steps else feature.shape
        given[key] = "kitchen" if feature.kind == "text" else np.zeros(shape, feature.dtype)
    return given


def _flags(length: int) -> Episode:
    place = np.arange(length)
    last = place == length - 1
    return {"steps/is_first": place == 0, "steps/is_last": last, "steps/is_terminal": last}


def _write(writer, root, splits, lengths, shards, edit, build) -> Path:
    folder = root / writer.name / writer.version
    written = {}
    for place, split in enumerate(splits):
        written[split] = []
        for number, length in enumerate(lengths, start=place * len(lengths)):
            episode = build(number, length)
            if edit is not None:
                edit(number, episode)
            written[split].append(episode)
    writer.write(folder, written, episodes_per_shard=-(-len(lengths) // shards))
    return folder
