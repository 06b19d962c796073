"""Exports a run's (or a parameter folder's) policy as a PyTorch folder that proves itself.

What is written is loaded in torch and compared with the policy here, stage by stage; on a mismatch nothing is left.
A folder that `import` made becomes the Hugging Face folder that it came from, with the same bits.
"""

import argparse
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from data_pipelines.transforms.boxes import MoveBoxes
from data_pipelines.transforms.geometry import UNCHANGED
from data_pipelines.transforms.resize import Resize
from vla_jax import config as configuration
from vla_jax import pretrained
from vla_jax.convert.export import Adapters, Export, find_target, target_names
from vla_jax.convert.imported_folder import IMPORT, is_imported, open_imported, write_hugging_face
from vla_jax.convert.safetensors_folder import read_json
from vla_jax.convert.weights_folder import weights_folder
from vla_jax.parameters import Structure, matching
from vla_jax.run_directory import new_folder, verify_manifest
from vla_jax.trained_policy import TrainedPolicy, load_policy
from vla_jax.types import InputError, Observation, Parameters

HELP = "a PyTorch folder with parity.json, or an imported model's Hugging Face folder; nothing on a mismatch"
BAR = 1e-5
"""Of a stage's largest value. Measured: 1e-6 for the tiny twin, 1.5e-6 for CLIP B/32 with the sharpest temperature."""
INSTRUCTION = "put the spoon in the pot"
STATISTICS = ("mean", "std", "min", "max", "q01", "q99", "mask")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="RUN_OR_PARAMS")
    parser.add_argument("--step", type=int, help="of a run; default: its newest")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="ema: where the run keeps one")
    parser.add_argument("--to", choices=target_names(), default="hf", help="who reads the folder")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")


def run(options: argparse.Namespace) -> int:
    jax.config.update("jax_platforms", "cpu")
    logging.getLogger("absl").setLevel(logging.WARNING)
    return _export_imported(options) if is_imported(options.checkpoint) else _export_policy(options)


def _export_imported(options: argparse.Namespace) -> int:
    if options.to != "hf":
        raise InputError(f"--to {options.to}: {options.checkpoint} holds {IMPORT}, no policy; it is exported --to hf")
    if options.step is not None:
        raise InputError(f"--step {options.step}: {options.checkpoint} holds {IMPORT}, no run; leave the option out")
    started = time.perf_counter()
    imported = open_imported(options.checkpoint)
    file = imported.source / "config.json"
    model = pretrained.config_of(imported.family, read_json(file), file=file)
    parameters = imported.parameters()
    num_bytes = sum(array.nbytes for array in parameters.values())
    with ThreadPoolExecutor(1) as checker, weights_folder(options.out, num_bytes) as folder:
        verified = checker.submit(verify_manifest, options.checkpoint)
        written = write_hugging_face(imported, folder.path, pretrained.shapes_of(model), advance=folder.advance)
        folder.digests.update(written)
        verified.result()  # what was written so far is nothing yet
    seconds = time.perf_counter() - started
    print(f"{options.out}: {imported.family}, {num_bytes:,} bytes, in {seconds:.1f} s")
    return 0


def _export_policy(options: argparse.Namespace) -> int:
    try:
        from vla_jax.convert import parity  # torch, which nothing else here needs
    except ImportError as error:
        raise InputError(f"export needs PyTorch ({error}): pip install -r requirements-export.txt") from error
    target = find_target(options.to)
    console = Console(stderr=True)
    with console.status("reading the checkpoint") as status, new_folder(options.out) as folder:
        policy = load_policy(options.checkpoint, step=options.step, weights=options.weights)
        structure = policy.structure
        export = _export(policy, _finite_parameters(policy))
        _check_statistics(policy)
        status.update("writing the folder")
        target.write(folder, export)
        status.update("comparing torch with JAX")
        report = parity.compare(
            folder,
            _stages(structure, export.parameters),
            parity.random_observations(export.requirements, policy.tokenizer.vocab_size),
            _predictions(policy),
            bar=BAR,
        )
        target.write_report(folder, export, report)
    print(
        f"{options.out}: {len(report['sha256'])} tensors; over {report['inputs']} inputs torch and JAX differ by at "
        f"most {report['max_relative_error']:.1e} of the largest value"
    )
    return 0


def _export(policy: TrainedPolicy, parameters: dict[str, np.ndarray]) -> Export:
    config, stored = policy.config, policy.stored
    source = {"Run": config.name, "Datasets": ", ".join(f"`{dataset}`" for dataset in sorted(policy.statistics))}
    if stored.step is not None:
        source["Step"] = f"{stored.step} of {config.num_steps}, batches of {config.batch_size}"
        source["Weights"] = "moving average (EMA)" if stored.weights == "ema" else "raw, no moving average"
    requirements = config.policy.data_requirements()
    if other := [f"{camera.slot}: {camera.filter}" for camera in requirements.cameras if camera.filter == "fast"]:
        raise InputError(f"{policy.path}: {other}: an exported folder resizes by the bicubic or the bilinear filter")
    prompt = config.policy.prompt()
    return Export(
        policy=type(config.policy).__module__.rpartition(".")[2],
        settings=configuration.to_json(config.policy),
        requirements=requirements,
        parameters=parameters,
        parts={part.prefix: part.family for part in config.policy.pretrained_parts()},
        frozen=matching(parameters, config.policy.frozen_paths()),
        statistics=policy.statistics,
        save_tokenizer=policy.tokenizer.save,
        source=source,
        prompt=None if prompt is None else dataclasses.asdict(prompt),
        adapters=_adapters(policy),
    )


def _adapters(policy: TrainedPolicy) -> Adapters | None:
    lora = policy.config.lora
    if lora is None:
        return None
    parameters = {path: np.asarray(array, np.float32) for path, array in policy.with_adapters().items()}
    trained = parameters.keys() - policy.config.frozen(parameters)
    return Adapters(rank=lora.rank, alpha=lora.alpha, parameters=parameters, trained=frozenset(trained))


def _finite_parameters(policy: TrainedPolicy) -> dict[str, np.ndarray]:
    """In float32, which widens bfloat16 exactly."""
    folder, found = policy.stored.folder, policy.stored.parameters
    parameters = {path: np.asarray(array).astype(np.float32, copy=False) for path, array in found.items()}
    if damaged := sorted(path for path, array in parameters.items() if not np.isfinite(array).all()):
        raise InputError(f"{folder}: {damaged[:5]} hold values that are not finite; take an earlier --step")
    return parameters


def _check_statistics(policy: TrainedPolicy) -> None:
    file = policy.stored.folder / "dataset_statistics.json"
    if not isinstance(policy.statistics, dict) or not policy.statistics:
        raise InputError(f"{file}: no dataset's statistics in it; without them actions have no unit")
    for dataset, tree in policy.statistics.items():
        for kind in ("action", "proprio"):
            present = tree.get(kind, {}) if isinstance(tree, dict) else {}
            if missing := [name for name in STATISTICS if name not in present]:
                raise InputError(f"{file}: {dataset}.{kind} has no {missing}; without them actions have no unit")
            policy.normalizer(kind, dataset)


def _stages(
    structure: Structure, parameters: Mapping[str, np.ndarray]
) -> Callable[[Observation], dict[str, jax.Array]]:
    def stages(parameters: Parameters, observation: Observation) -> dict[str, jax.Array]:
        policy: Any = structure.merge(parameters)
        return policy.stages(observation)

    compiled, on_device = jax.jit(stages), jax.device_put(dict(parameters))
    return lambda observation: compiled(on_device, observation)


def _predictions(policy: TrainedPolicy) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """One fixed observation for each dataset, all the way from pictures and words to actions in real units."""
    generator = np.random.default_rng(0)
    needs = policy.config.policy.data_requirements()
    sources = dict.fromkeys(camera.source for camera in needs.cameras)
    seen: dict[str, Any] = {"images": {slot: generator.integers(0, 256, (48, 64, 3), np.uint8) for slot in sources}}
    if needs.boxes is not None:
        corner = generator.uniform(0, 0.5, (needs.boxes.count + 1, 2))  # one too many
        seen["boxes"] = np.concatenate([corner, corner + generator.uniform(0.01, 0.5, corner.shape)], axis=1)
    if needs.depths:
        seen["depths"] = {d.slot: generator.uniform(0.3, 2, (48, 64)).astype(np.float32) for d in needs.depths}
    for dataset in sorted(policy.statistics):
        statistics = policy.statistics[dataset]["proprio"]
        proprio = np.asarray(statistics["mean"], np.float32) + 0.5 * np.asarray(statistics["std"], np.float32)
        chunk = policy.act_unnormalized(_observation(policy, seen, proprio, dataset), dataset)[0]
        yield seen | {"proprio": proprio, "instruction": INSTRUCTION, "unnorm_key": dataset}, chunk


def _observation(policy: TrainedPolicy, seen: dict[str, Any], proprio: np.ndarray, dataset: str) -> Observation:
    """As a robot sees it in its first step, made ready by our own data pipeline."""
    needs = policy.config.policy.data_requirements()
    tokens, mask = policy.tokenizer([INSTRUCTION])
    steps = needs.window if needs.window_anchor == "last" else 1

    def window(array: np.ndarray) -> np.ndarray:
        """Padded on the left, with a batch axis."""
        return np.pad(array[None], [(steps - 1, 0)] + [(0, 0)] * array.ndim)[None]

    leaves: dict[str, Any] = {
        "images": {
            c.slot: window(Resize(c.height, c.width, c.filter)(seen["images"][c.source])) for c in needs.cameras
        },
        "image_masks": {camera.slot: window(np.array(True)) for camera in needs.cameras},
        "proprio": window(policy.normalizer("proprio", dataset)(proprio)),
        "timestep_mask": window(np.array(True)),
        "instruction_tokens": tokens,
        "instruction_mask": mask,
    }
    if needs.boxes is not None:
        camera = next(camera for camera in needs.cameras if camera.slot == needs.boxes.slot)
        move = MoveBoxes(camera.height, camera.width, needs.boxes.smallest_side)
        boxes = seen["boxes"][None, : needs.boxes.count]
        moved, kept = move(boxes, np.ones(boxes.shape[:2], bool), UNCHANGED)
        leaves |= {"boxes": window(moved[0]), "box_masks": window(kept[0])}
    if needs.depths:
        sizes = {d.slot: Resize(d.height, d.width, "nearest") for d in needs.depths}
        leaves["depths"] = {slot: window(resize(seen["depths"][slot])) for slot, resize in sizes.items()}
        leaves["depth_masks"] = {slot: window(np.array(True)) for slot in sizes}
    return Observation(**leaves)
