"""A clean dataset with BridgeData V2's feature tree, and one planted fault for each code of `verify`.

Pictures show a warm room of blocks, each camera its own, and a red block that wanders. Twelve episodes of ten steps:
eight in train (two shards), four in val.
"""

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from data_pipelines.datasets import bridge_dataset
from data_pipelines.index.example import Spans, build_example, parse_example
from data_pipelines.index.tfrecord import masked_crc, read_records, write_records
from data_pipelines.writer import Episode
from tests.rlds_episodes import BRIDGE_CAMERAS, write_bridge

LENGTH = 10
SIZE = (32, 32)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 123456\n"
Edit = Callable[[int, Episode], None]


def write_clean(root: Path, edit: Edit | None = None) -> Path:
    """Episodes 0 to 3 are the first shard of train, 4 to 7 its second, 8 to 11 are val's 0 to 3."""

    def furnish(number: int, episode: Episode) -> None:
        _furnish(number, episode)
        if edit is not None:
            edit(number, episode)

    train = write_bridge(root / "parts", lengths=(LENGTH,) * 8, shards=2, size=SIZE, edit=furnish)
    val = write_bridge(
        root / "more", lengths=(LENGTH,) * 4, shards=1, size=SIZE, edit=lambda number, e: furnish(number + 8, e)
    )
    return _joined(train, val, root)


def _joined(train: Path, val: Path, root: Path) -> Path:
    folder = root / "bridge_dataset" / "1.0.0"
    folder.parent.mkdir()
    train.rename(folder)
    (val / "bridge_dataset-train.tfrecord-00000-of-00001").rename(folder / "bridge_dataset-val.tfrecord-00000-of-00001")
    split = json.loads((val / "dataset_info.json").read_text())["splits"][0] | {"name": "val"}
    edit_json(folder / "dataset_info.json", lambda tree: tree["splits"].append(split))
    return folder


def _furnish(number: int, episode: Episode) -> None:
    generator = np.random.default_rng(100 + number)
    opened = np.repeat([1.0, 0.0], LENGTH // 2)
    episode["steps/action"] = generator.normal(scale=0.02, size=(LENGTH, 7))
    episode["steps/action"][:, 6] = opened
    episode["steps/observation/state"] = generator.normal(scale=0.1, size=(LENGTH, 7))
    episode["steps/observation/state"][:, 6] = np.concatenate([[1.0], opened[:-1]])
    for camera, key in enumerate(BRIDGE_CAMERAS):
        episode[f"episode_metadata/has_image_{camera}"] = True
        episode[key] = [encode(scene(number, step, camera)) for step in range(LENGTH)]


def scene(number: int, step: int, camera: int) -> np.ndarray:
    blocks = np.random.default_rng(camera).integers(40, 190, (4, 4, 1)) * np.array([1.0, 0.8, 0.55])
    pixels = np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)
    row, column = 3 * step % 24, 5 * number % 24
    pixels[row : row + 6, column : column + 6] = (200, 30, 40)
    return pixels


def encode(pixels: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=92, colorspace="RGB")


def edit_json(path: Path, edit: Callable) -> None:
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))


# --- faults ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Fault:
    code: str
    name: str
    episode: Edit | None = None
    """Plants it in an episode before the dataset is written."""
    folder: Callable[[Path], None] | None = None
    """Plants it in the written dataset."""
    place: tuple[str | None, int | None, int | None] = (None, None, None)
    """Split, episode, step of the first finding."""
    count: int = 1
    """Findings."""


def first_shard(folder: Path) -> Path:
    return folder / "bridge_dataset-train.tfrecord-00000-of-00002"


def cut(num_bytes: int) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        path = first_shard(folder)
        path.write_bytes(path.read_bytes()[:-num_bytes])

    return plant


def flip(place: Callable[[bytes], int]) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        data = bytearray(first_shard(folder).read_bytes())
        data[place(bytes(data))] ^= 1
        first_shard(folder).write_bytes(bytes(data))

    return plant


def second_record(data: bytes) -> int:
    return 16 + struct.unpack_from("<Q", data)[0]


def no_example(folder: Path) -> None:
    """Sound framing around something else, in place of the first record."""
    path = first_shard(folder)
    data, junk = path.read_bytes(), b"\xff" * 64
    length = struct.pack("<Q", len(junk))
    record = length + struct.pack("<I", masked_crc(length)) + junk + struct.pack("<I", masked_crc(junk))
    path.write_bytes(record + data[second_record(data) :])


def drop_last_record(folder: Path) -> None:
    data, position = first_shard(folder).read_bytes(), 0
    while (following := position + second_record(data[position:])) < len(data):
        position = following
    first_shard(folder).write_bytes(data[:position])


def rewrite(number: int, change: Callable[[Episode], None]) -> Callable[[Path], None]:
    return lambda folder: rewrite_shard(first_shard(folder), {number}, change)


def rewrite_shard(path: Path, numbers: set[int], change: Callable[[Episode], None]) -> None:
    """Encodes these records anew, changed."""
    records = [record.data for record in read_records(path)]
    for number in numbers:
        episode: Episode = {}
        for key, value in parse_example(data := records[number]).items():
            is_bytes = isinstance(value, Spans)
            spans = zip(value.offset.tolist(), value.length.tolist()) if is_bytes else ()
            episode[key] = [data[o : o + n] for o, n in spans] if is_bytes else np.asarray(value)
        change(episode)
        records[number] = build_example(episode)
    with path.open("wb") as stream:
        write_records(stream, records)


def steps_of(tree: dict) -> dict:
    return tree["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]


def describe(file: str, edit: Callable) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / file, edit)


def drop_observation(name: str) -> Callable[[Path], None]:
    return describe("features.json", lambda tree: steps_of(tree)["observation"]["featuresDict"]["features"].pop(name))


def at(numbers: tuple[int, ...], change: Callable[[Episode], None]) -> Edit:
    def plant(number: int, episode: Episode) -> None:
        if number in numbers:
            change(episode)

    return plant


EVERY = tuple(range(12))


def put(key: str, where, value) -> Callable[[Episode], None]:
    def change(episode: Episode) -> None:
        episode[key][where] = value

    return change


def shorten(episode: Episode) -> None:
    for key in [key for key in episode if key.startswith("steps/")]:
        episode[key] = episode[key][-1:]
    episode["steps/is_first"] = np.ones(1, bool)


def exchange(cameras: tuple[str, ...]) -> Callable[[Episode], None]:
    def change(episode: Episode) -> None:
        for key in cameras:
            episode[key] = [encode(simplejpeg.decode_jpeg(data, "RGB")[..., ::-1]) for data in episode[key]]

    return change


def invert_gripper(episode: Episode) -> None:
    episode["steps/action"][:, 6] = 1 - episode["steps/action"][:, 6]


def in_metres(episode: Episode) -> None:
    episode["steps/action"][:, 6] *= 0.04


def repeat_of(number: int) -> Callable[[Episode], None]:
    return lambda episode: _furnish(number, episode)


def continuous(episode: Episode) -> None:
    episode["steps/action"][4, 6] = 0.7


ACTION, IMAGE, TEXT = "steps/action", BRIDGE_CAMERAS[0], "steps/language_instruction"
CUT = encode(scene(1, 3, 0))[:200]
FEWER = {"shardLengths": ["4", "5"]}
FAULTS = (
    Fault("shard_truncated", "inside a record", folder=cut(100), place=("train", 3, None)),
    Fault(
        "shard_truncated",
        "inside a header",
        folder=lambda folder: first_shard(folder).open("ab").write(b"\1\2"),
        place=("train", 4, None),
    ),
    Fault("shard_corrupt", "data", folder=flip(lambda data: second_record(data) + 500), place=("train", 1, None)),
    Fault("shard_corrupt", "length", folder=flip(lambda data: second_record(data) + 2), place=("train", 1, None)),
    Fault("shard_corrupt", "no example", folder=no_example, place=("train", 0, None)),
    Fault(
        "shard_corrupt",
        "uneven",
        folder=rewrite(2, lambda episode: episode.update({"steps/reward": np.zeros(0, np.float32)})),
        place=("train", 2, None),
    ),
    Fault("shard_empty", "", folder=lambda folder: first_shard(folder).write_bytes(b""), place=("train", None, None)),
    Fault("shard_missing", "", folder=lambda folder: first_shard(folder).unlink(), place=("train", None, None)),
    Fault(
        "shard_lfs_pointer",
        "",
        folder=lambda folder: first_shard(folder).write_bytes(POINTER),
        place=("train", None, None),
    ),
    Fault("count_mismatch", "too few", folder=drop_last_record, place=("train", None, None)),
    Fault(
        "count_mismatch",
        "other lengths",
        folder=describe("dataset_info.json", lambda tree: tree["splits"][0].update(FEWER)),
        place=("train", None, None),
    ),
    Fault(
        "count_mismatch",
        "unlisted shard",
        folder=lambda folder: (folder / "bridge_dataset-test.tfrecord-00000-of-00001").write_bytes(b""),
    ),
    Fault(
        "image_undecodable", "cut", episode=at((1,), put(IMAGE, 3, encode(scene(1, 3, 0))[:200])), place=("train", 1, 3)
    ),
    Fault("image_undecodable", "no picture", episode=at((1,), put(IMAGE, 4, b"nothing")), place=("train", 1, 4)),
    Fault(
        "image_black",
        "",
        episode=at((9,), put(IMAGE, slice(0, 2), [encode(np.zeros((*SIZE, 3), np.uint8))] * 2)),
        place=("val", 1, 0),
    ),
    Fault(
        "image_channels_swapped",
        "an episode",
        episode=at((5,), exchange(BRIDGE_CAMERAS)),
        place=("train", 5, None),
        count=4,
    ),
    Fault(
        "image_channels_swapped",
        "some",
        episode=at((0, 3, 6, 9), exchange((IMAGE,))),
        place=("train", 0, None),
        count=4,
    ),
    Fault("image_channels_swapped", "a camera", episode=at(EVERY, exchange((IMAGE,)))),
    Fault("image_channels_swapped", "all", episode=at(EVERY, exchange(BRIDGE_CAMERAS)), count=4),
    Fault("action_out_of_range", "", episode=at((3,), put(ACTION, (7, 1), 1.7)), place=("train", 3, 7)),
    Fault("action_spike", "within", episode=at((3,), put(ACTION, (7, 1), 0.9)), place=("train", 3, 7)),
    Fault("action_spike", "at the end", episode=at((3,), put(ACTION, (9, 5), -0.9)), place=("train", 3, 9)),
    Fault("action_nonfinite", "action", episode=at((10,), put(ACTION, (4, 2), np.nan)), place=("val", 2, 4)),
    Fault(
        "action_nonfinite",
        "state",
        episode=at((10,), put("steps/observation/state", (4, 2), np.inf)),
        place=("val", 2, 4),
    ),
    Fault("action_idle", "", episode=at((6,), put(ACTION, np.s_[2:, :6], 0.0)), place=("train", 6, 2)),
    Fault("first_action_zero", "", episode=at((2, 8), put(ACTION, np.s_[0, :6], 0.0)), place=("train", 2, 0), count=2),
    Fault("gripper_convention", "inverted", episode=at(EVERY, invert_gripper)),
    Fault("gripper_convention", "another unit", episode=at(EVERY, in_metres)),
    Fault("gripper_continuous", "", episode=at(EVERY, continuous)),
    Fault("episode_too_short", "", episode=at((4,), shorten), place=("train", 4, None)),
    Fault("episode_duplicate", "", episode=at((6,), repeat_of(1)), place=("train", 6, None)),
    Fault("split_overlap", "", episode=at((11,), repeat_of(1)), place=("val", 3, None)),
    Fault("last_flag_missing", "never", episode=at((0,), put("steps/is_last", 9, False)), place=("train", 0, 9)),
    Fault("last_flag_missing", "too early", episode=at((0,), put("steps/is_last", 4, True)), place=("train", 0, 9)),
    Fault("camera_missing", "features.json", folder=drop_observation("image_1")),
    Fault("camera_missing", "0 bytes", episode=at((7,), put(BRIDGE_CAMERAS[1], 2, b"")), place=("train", 7, 2)),
    Fault(
        "camera_flag_false",
        "",
        episode=at((7,), lambda episode: episode.update({"episode_metadata/has_image_0": False})),
        place=("train", 7, None),
    ),
    Fault(
        "language_missing",
        "",
        episode=at((8,), put(TEXT, slice(3, 6), ["", " ", ""])),
        place=("val", 0, 3),
    ),
    Fault("language_missing", "features.json", folder=describe("features.json", lambda t: steps_of(t).pop(TEXT[6:]))),
    Fault("language_not_utf8", "", episode=at((8,), put(TEXT, 5, b"put \xff there")), place=("val", 0, 5)),
    Fault("version_mismatch", "version", folder=describe("dataset_info.json", lambda t: t.update(version="0.9.0"))),
    Fault("version_mismatch", "no state", folder=drop_observation("state")),
    Fault(
        "version_mismatch",
        "record",
        folder=describe("features.json", lambda t: steps_of(t)["action"]["tensor"].update(shape={"dimensions": ["9"]})),
        place=("train", 0, None),
        count=12,
    ),
)


def plant(fault: Fault, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The dataset's folder."""
    if fault.code == "action_out_of_range":
        published = dataclasses.replace(bridge_dataset.SPEC, action_range=((-1.5, 1.5),) * 6 + ((0.0, 1.0),))
        monkeypatch.setattr(bridge_dataset, "SPEC", published)
    folder = write_clean(root, fault.episode)
    if fault.folder is not None:
        fault.folder(folder)
    return folder


# --- the real sample ---------------------------------------------------------------------------


def real_exchanged(shared_data: Path, root: Path, numbers: set[int], splits: tuple[str, ...] = ("train",)) -> Path:
    """A copy of the real Bridge sample: these episodes of these splits with red and blue exchanged."""
    folder = root / "bridge_dataset" / "1.0.0"
    folder.mkdir(parents=True)
    for path in (shared_data / "bridge_dataset" / "1.0.0").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for split in splits:
        path = folder / f"bridge_dataset-{split}.tfrecord-00000-of-00001"
        rewrite_shard(path, numbers, exchange(BRIDGE_CAMERAS))
    return folder
