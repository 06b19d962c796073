"""What stands between a robot and a policy: pictures, words and numbers in; actions in real units out.

Needs numpy, Pillow, tokenizers and torch. A policy that prepares more derives from `VlaProcessor`.
Axes: w window, y x pixels, p proprio, h horizon, a action, k boxes.
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

from .configuration_vla import VlaConfig

STATISTICS = "dataset_statistics.json"
SETTINGS = "preprocessor_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
CONSTANT = 1e-6
"""A dimension whose range is at most this share of its magnitude is constant: it is neither scaled nor predicted."""
FLOORS = {"metre": 1e-4, "radian": 2e-4, "1": 2e-4}
"""Smallest divisor by unit, so that the noise of a dimension that hardly moves is not blown up."""
HUB_KEYS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class VlaProcessor:
    """Prepares observations as they were prepared in training, and undoes the normalisation of actions."""

    def __init__(self, config: VlaConfig, files: dict[str, Path]):
        """Args: files: STATISTICS, SETTINGS and TOKENIZER_FILES by name."""
        self.config = config
        self.files = files
        self.statistics = json.loads(files[STATISTICS].read_text())
        self.settings = json.loads(files[SETTINGS].read_text())
        pad = json.loads(files["special_tokens_map.json"].read_text())["pad_token"]
        self.tokenizer = tokenizers.Tokenizer.from_file(str(files["tokenizer.json"]))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.pad_id = self.tokenizer.token_to_id(pad)
        if config.prompt is None:
            self.tokenizer.enable_truncation(config.requirements["text_length"])

    # ---- loading and saving

    @classmethod
    def from_pretrained(cls, path: Any, **kwargs: Any) -> "VlaProcessor":
        hub = {key: kwargs[key] for key in HUB_KEYS if key in kwargs}
        names = (STATISTICS, SETTINGS, *TOKENIZER_FILES)
        files = {name: Path(cached_file(path, name, **hub)) for name in names}
        settings, _ = VlaConfig.get_config_dict(path, **hub)
        return cls(VlaConfig(**settings), files)

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
        *,
        boxes: Any = None,
        depths: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """One window as a batch of one, ready for `model(**batch)`. Arguments as in `predict_action`."""
        proprio = np.atleast_2d(np.asarray(proprio, np.float32))
        names = [dimension["name"] for dimension in self.config.action_space["proprio"]]
        if proprio.shape[1:] != (len(names),) or not np.isfinite(proprio).all():
            raise ValueError(f"proprio of shape {list(proprio.shape)}; finite numbers are expected: {names} a step")
        steps = len(proprio)
        arrays: dict[str, Any] = {
            "images": self._images(images, steps),
            "image_masks": {
                camera["slot"]: np.full(steps, images.get(camera["source"]) is not None) for camera in self._cameras
            },
            "proprio": self.normalize_proprio(proprio, unnorm_key),
            "timestep_mask": np.ones(steps, bool),
            **self._boxes(boxes, images, steps),
            **self._depths(depths or {}, steps),
        }
        ids, text_mask = self.tokenize([instruction])
        return self._windowed(arrays) | {"input_ids": ids, "attention_mask": text_mask}

    def tokenize(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """int64 ids and bool mask [b, t]."""
        length = self.config.requirements["text_length"]
        ids = torch.full((len(texts), length), self.pad_id)
        mask = torch.zeros((len(texts), length), dtype=torch.bool)
        for row, text in enumerate(texts):
            found = self._fitting(text, length)
            ids[row, : len(found)], mask[row, : len(found)] = torch.tensor(found), True
        return ids, mask

    def resize(self, picture: Any, slot: str | None = None) -> np.ndarray:
        """uint8 RGB [y, x, 3] as the model sees this camera (None: the first): antialiased and stretched."""
        camera = next(camera for camera in self._cameras if slot in (None, camera["slot"]))
        if not isinstance(picture, Image.Image):
            array = np.asarray(picture)
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
                raise ValueError(f"a picture of {array.dtype} {list(array.shape)}; uint8 RGB [y, x, 3] is expected")
            picture = Image.fromarray(array)
        picture = picture.convert("RGB")
        if picture.size != (size := (camera["width"], camera["height"])):
            picture = picture.resize(size, FILTERS[camera["filter"]])
        return np.array(picture)

    @staticmethod
    def to(batch: dict[str, Any], device: Any) -> dict[str, Any]:
        return {
            key: {slot: tensor.to(device) for slot, tensor in value.items()}
            if isinstance(value, dict)
            else value.to(device)
            for key, value in batch.items()
        }

    @property
    def _cameras(self) -> list[dict[str, Any]]:
        return self.config.requirements["cameras"]

    def _windowed(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """Tensors with a batch axis; the windows of a policy that reads up to the present are whole."""
        needs = self.config.requirements
        missing = needs["window"] - len(arrays["timestep_mask"]) if needs["window_anchor"] == "last" else 0

        def tensor(array: np.ndarray) -> torch.Tensor:
            padding = [(max(missing, 0), 0)] + [(0, 0)] * (array.ndim - 1)
            return torch.from_numpy(np.pad(array, padding))[None]

        return {
            key: {slot: tensor(array) for slot, array in value.items()} if isinstance(value, dict) else tensor(value)
            for key, value in arrays.items()
        }

    def _fitting(self, text: str, length: int) -> list[int]:
        """Where a prompt stands around the text, words at its end give way, so that what follows it is never cut."""
        ids, words = self._whole(text), text.split(" ")[:length]
        while len(ids) > length:
            words.pop()
            ids = self._whole(" ".join(words))
        return ids

    def _whole(self, text: str) -> list[int]:
        prompt = self.config.prompt
        if prompt is None:
            return self.tokenizer.encode(text).ids
        ids = self.tokenizer.encode(prompt["template"].replace("{instruction}", text.lower())).ids
        last = [] if prompt["last_token"] is None else [self.tokenizer.token_to_id(prompt["last_token"])]
        return ids if ids[-len(last) :] == last else ids + last

    def _images(self, images: dict[str, Any], steps: int) -> dict[str, np.ndarray]:
        sources = list(dict.fromkeys(camera["source"] for camera in self._cameras))
        if unknown := sorted(set(images) - set(sources)):
            raise ValueError(f"images of unknown cameras {unknown}; this model reads {sources}")
        if sources and all(images.get(source) is None for source in sources):
            raise ValueError(f"no picture at all; this model reads the cameras {sources}")
        return {camera["slot"]: self._pictures(camera, images.get(camera["source"]), steps) for camera in self._cameras}

    def _pictures(self, camera: dict[str, Any], pictures: Any, steps: int) -> np.ndarray:
        if pictures is None:
            return np.zeros((steps, camera["height"], camera["width"], 3), np.uint8)
        if isinstance(pictures, Image.Image) or np.ndim(pictures) == 3:
            pictures = [pictures]
        _refuse_other_lengths(pictures, steps, f"pictures of {camera['source']!r}")
        return np.stack([self.resize(picture, camera["slot"]) for picture in pictures])

    def _boxes(self, boxes: Any, images: dict[str, Any], steps: int) -> dict[str, np.ndarray]:
        """`boxes` float32 [w, k, 4] and `box_masks` [w, k], clipped; those that are too small are masked."""
        needs = self.config.requirements.get("boxes")
        if needs is None:
            if boxes is not None:
                raise ValueError("this model reads no boxes")
            return {}
        count = needs["count"]
        if boxes is None and needs["missing"] == "grid":
            boxes = _grid(count)
        elif boxes is None:
            raise ValueError(f"boxes of objects in {needs['slot']!r} are expected: [k, 4] in shares of the picture")
        each = [boxes] * steps if np.ndim(boxes) == 2 else list(boxes)
        _refuse_other_lengths(each, steps, "sets of boxes")
        given, mask = np.zeros((steps, count, 4), np.float32), np.zeros((steps, count), bool)
        source = next(camera["source"] for camera in self._cameras if camera["slot"] == needs["slot"])
        for row, own in enumerate(each if images.get(source) is not None else []):
            own = np.clip(np.asarray(own, np.float64).reshape(-1, 4)[:count], 0, 1)
            mask[row, : len(own)] = (own[:, 2:] - own[:, :2] >= needs["smallest_side"] - 1e-6).all(-1)
            given[row, : len(own)] = np.where(mask[row, : len(own), None], own, 0)
        return {"boxes": given, "box_masks": mask}

    def _depths(self, depths: dict[str, Any], steps: int) -> dict[str, dict[str, np.ndarray]]:
        """`depths` float32 [w, y, x] in metres and `depth_masks` [w], by camera slot."""
        needs = self.config.requirements.get("depths") or []
        slots = [depth["slot"] for depth in needs]
        if unknown := sorted(set(depths) - set(slots)):
            raise ValueError(f"depths of unknown cameras {unknown}; this model reads those of {slots}")
        found: dict[str, dict[str, np.ndarray]] = {"depths": {}, "depth_masks": {}} if needs else {}
        for depth in needs:
            pictures, size = depths.get(depth["slot"]), (depth["width"], depth["height"])
            metres = np.zeros((steps, depth["height"], depth["width"]), np.float32)
            if pictures is not None:
                pictures = [pictures] if np.ndim(pictures) == 2 else list(pictures)
                _refuse_other_lengths(pictures, steps, f"depths of {depth['slot']!r}")
                for row, picture in enumerate(pictures):
                    picture = np.asarray(picture, np.float32)
                    measured = np.where((picture > 0) & np.isfinite(picture), picture, np.float32(0))
                    metres[row] = np.asarray(Image.fromarray(measured).resize(size, Image.Resampling.NEAREST))
            found["depths"][depth["slot"]] = metres
            found["depth_masks"][depth["slot"]] = np.full(steps, pictures is not None)
        return found

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


def _refuse_other_lengths(given: Any, steps: int, what: str) -> None:
    if len(given) != steps:
        raise ValueError(f"{len(given)} {what}, but {steps} rows of proprio; one each is expected")


def _grid(count: int) -> np.ndarray:
    """[k, 4]: the squares of a grid, in rows, as training puts them in the place of boxes that are missing."""
    side = max(1, int(np.ceil(np.sqrt(count))))
    row, column = np.divmod(np.arange(count), side)
    return np.stack([column, row, column + 1, row + 1], axis=-1) / side
