"""Whether an exported folder computes what we compute: its own code, its own weights, float32 on the CPU.

Axes: b batch, w window, y x pixels, t text tokens, h horizon, a action.
The error of a stage is the largest absolute difference over all inputs, relative to our largest value there.
Random inputs have all that the policy asks for; a second picture of a camera is random on its own.
"""

import contextlib
import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import platform
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from vla_jax.convert.safetensors_folder import SafetensorsFolder
from vla_jax.types import DataRequirements, InputError, Observation

NUM_INPUTS = 64
BATCH = 4
PACKAGES = ("jax", "flax", "torch", "transformers", "safetensors", "tokenizers", "numpy")

Reference = Callable[[Observation], Mapping[str, Any]]
"""Our stages by name."""
Prediction = tuple[dict[str, Any], np.ndarray]
"""Arguments of `predict_action`, and the chunk in real units that we compute from them."""


def compare(
    folder: Path,
    reference: Reference,
    observations: Iterable[Observation],
    predictions: Iterable[Prediction],
    *,
    bar: float,
) -> dict[str, Any]:
    """What parity.json says. Raises InputError at the first stage whose error is above `bar`."""
    with _loaded(folder) as model:
        inputs, stages = _compare_stages(model, reference, observations)
        errors = _relative(stages)
        _refuse(errors, bar)
        for arguments, expected in predictions:
            found = model.predict_action(**arguments)
            error = np.abs(found - expected).max() / np.abs(expected).max()
            # np.maximum, not max: NaN must win.
            errors["predict_action"] = float(np.maximum(error, errors.get("predict_action", 0.0)))
        _refuse(errors, bar)
    return {
        "inputs": inputs,
        "max_relative_error": max(errors.values()),
        "stages": errors,
        "precision": "float32",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "sha256": digests(folder),
    }


def random_observations(requirements: DataRequirements, vocab_size: int, *, seed: int = 0) -> Iterator[Observation]:
    """NUM_INPUTS inputs in batches, with padded window steps, padded text and missing cameras.

    Where windows may be short, only the first batch has whole ones, so that full-size models are compared in minutes.
    """
    generator = np.random.default_rng(seed)
    for number in range(NUM_INPUTS // BATCH):
        may_be_short = requirements.window_anchor == "first"
        window = min(2, requirements.window) if number and may_be_short else requirements.window
        yield _random_observation(requirements, vocab_size, window, generator)


def _random_observation(
    requirements: DataRequirements, vocab_size: int, window: int, generator: np.random.Generator
) -> Observation:
    lengths = generator.integers(1, window + 1, BATCH)
    lengths[0] = window
    valid = np.arange(window) < lengths[:, None]
    if requirements.window_anchor == "last":
        valid = valid[:, ::-1]
    words = generator.integers(2, requirements.text_length + 1, BATCH)
    images, masks = {}, {}
    for camera in requirements.cameras:
        shape = (BATCH, window, camera.height, camera.width, 3)
        mask = valid & (generator.random(BATCH) < 0.75)[:, None]
        noise = generator.integers(0, 256, shape, np.uint8)
        # Pure noise looks the same in every patch; a gradient over it tells patches apart.
        slope = np.linspace(0, generator.uniform(0.2, 1.0), camera.width)[:, None]
        images[camera.slot] = np.where(mask[..., None, None, None], noise * slope, 0).astype(np.uint8)
        masks[camera.slot] = mask
    leaves: dict[str, Any] = {
        "images": images,
        "image_masks": masks,
        "proprio": generator.normal(size=(BATCH, window, requirements.action_space.proprio_width)).astype(np.float32),
        "timestep_mask": valid,
        "instruction_tokens": generator.integers(0, vocab_size, (BATCH, requirements.text_length), np.int32),
        "instruction_mask": np.arange(requirements.text_length) < words[:, None],
    }
    return Observation(
        **leaves, **_random_boxes(requirements, masks, generator), **_random_depths(requirements, valid, generator)
    )


def _random_boxes(
    requirements: DataRequirements, image_masks: dict[str, np.ndarray], generator: np.random.Generator
) -> dict[str, Any]:
    needs = requirements.boxes
    if needs is None:
        return {}
    seen = image_masks[needs.slot]
    found = generator.integers(0, needs.count + 1, seen.shape)
    mask = seen[..., None] & (np.arange(needs.count) < found[..., None])
    corner = generator.uniform(0, 0.5, (*mask.shape, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(0.1, 0.5, corner.shape)], axis=-1)
    return {"boxes": np.where(mask[..., None], boxes, 0).astype(np.float32), "box_masks": mask}


def _random_depths(requirements: DataRequirements, valid: np.ndarray, generator: np.random.Generator) -> dict[str, Any]:
    """In 0.3 to 2 metres, with pixels of which nothing is known."""
    if not requirements.depths:
        return {}
    depths, masks = {}, {}
    for depth in requirements.depths:
        masks[depth.slot] = mask = valid & (generator.random(len(valid)) < 0.75)[:, None]
        shape = (*mask.shape, depth.height, depth.width)
        known = mask[..., None, None] & (generator.random(shape) < 0.9)
        depths[depth.slot] = np.where(known, generator.uniform(0.3, 2.0, shape), 0).astype(np.float32)
    return {"depths": depths, "depth_masks": masks}


def digests(folder: Path) -> dict[str, str]:
    """sha256 of each tensor's bytes as they lie on disk."""
    weights = SafetensorsFolder(folder)
    return {name: hashlib.sha256(weights.read(name).tobytes()).hexdigest() for name in weights.names()}


def _compare_stages(model: Any, reference: Reference, observations: Iterable[Observation]):
    """Number of inputs, and of each stage the largest difference and our largest value."""
    inputs = 0
    stages: dict[str, tuple[float, float]] = {}
    for observation in observations:
        ours = {name: np.asarray(value) for name, value in reference(observation).items()}
        theirs = {name: value.numpy() for name, value in model.stages(**_to_torch(observation)).items()}
        assert ours.keys() == theirs.keys(), f"stages {sorted(ours)} and {sorted(theirs)}"
        for name, their in theirs.items():  # in the order of computation; jit sorts ours
            value = ours[name]
            if value.shape != their.shape:
                raise InputError(f"export: {name} is {list(their.shape)} in torch, {list(value.shape)} in JAX")
            difference, scale = stages.get(name, (0.0, 0.0))
            # np.maximum, not max: NaN must win.
            difference = np.maximum(difference, np.abs(value - their).max())
            stages[name] = (difference, np.maximum(scale, np.abs(value).max()))
        inputs += len(observation.timestep_mask)
    return inputs, stages


def _relative(stages: dict[str, tuple[float, float]]) -> dict[str, float]:
    return {
        name: float(difference / scale) if scale > 0 else float("nan") for name, (difference, scale) in stages.items()
    }


def _refuse(errors: dict[str, float], bar: float) -> None:
    for name, error in errors.items():
        if not error <= bar:
            raise InputError(
                f"export: torch and JAX differ at {name!r}: {error:.1e} of the largest value, at most {bar:.0e} "
                f"expected; nothing was written. Stages in order: "
                + ", ".join(f"{stage} {value:.1e}" for stage, value in errors.items())
            )


def _to_torch(observation: Observation) -> dict[str, Any]:
    def tensor(array: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(array))

    leaves = {
        "images": {slot: tensor(images) for slot, images in observation.images.items()},
        "image_masks": {slot: tensor(mask) for slot, mask in observation.image_masks.items()},
        "proprio": tensor(observation.proprio),
        "timestep_mask": tensor(observation.timestep_mask),
        "input_ids": tensor(observation.instruction_tokens).long(),
        "attention_mask": tensor(observation.instruction_mask),
    }
    if observation.boxes is not None:
        leaves |= {"boxes": tensor(observation.boxes), "box_masks": tensor(observation.box_masks)}
    if observation.depths is not None and observation.depth_masks is not None:
        leaves["depths"] = {slot: tensor(metres) for slot, metres in observation.depths.items()}
        leaves["depth_masks"] = {slot: tensor(mask) for slot, mask in observation.depth_masks.items()}
    return leaves


@contextlib.contextmanager
def _loaded(folder: Path) -> Iterator[Any]:
    """The folder's model, by the folder's code, which is imported as a package of its own and forgotten after."""
    config = json.loads((folder / "config.json").read_text())
    module, _, cls = config["auto_map"]["AutoModel"].partition(".")
    package = "exported_" + hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
    spec = importlib.machinery.ModuleSpec(package, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.modules[package] = importlib.util.module_from_spec(spec)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        model_class = getattr(importlib.import_module(f"{package}.{module}"), cls)
        try:
            model = model_class.from_pretrained(folder, dtype=torch.float32)
        except (ValueError, RuntimeError) as error:
            raise InputError(f"export: torch cannot load what was written ({error}); nothing was written") from error
        if (folder / "adapter").is_dir():
            import peft  # seconds, which no other export needs

            with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft's own, of transformers 6
                model = peft.PeftModel.from_pretrained(model, folder / "adapter")
        with torch.no_grad():
            yield model.eval()
    finally:
        sys.dont_write_bytecode = writes_bytecode
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            del sys.modules[name]
