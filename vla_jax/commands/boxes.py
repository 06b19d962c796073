"""Boxes of the objects in every picture of a camera, by SAM: the sidecar that DFA-VLA reads.

Killed and started again it goes on where it was. --batch and --part change the speed alone; anything else that differs
from a run that was begun is refused by name.
"""

import argparse
import dataclasses
import hashlib
import time
from pathlib import Path
from typing import Any, cast

from flax import nnx

from data_pipelines.box_making import BoxMaking
from data_pipelines.command_line import add_cache, add_directory, add_jobs, positive
from data_pipelines.discovery import find_dataset
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.sidecar import open_index
from vla_jax import accelerator, pretrained
from vla_jax.convert.imported_folder import is_imported, open_imported
from vla_jax.convert.load import load_pretrained
from vla_jax.convert.safetensors_folder import read_json
from vla_jax.encoders.sam import SamConfig
from vla_jax.parameters import abstract
from vla_jax.policies.base import PretrainedPart
from vla_jax.run_directory import file_digest
from vla_jax.segmentation.box_detector import BoxDetector
from vla_jax.segmentation.mask_generation import MaskGeneration
from vla_jax.segmentation.selection import Selection
from vla_jax.types import InputError

HELP = "boxes of the objects in every picture of a camera, by SAM (DFA-VLA's sidecar)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)
    parser.add_argument("--sam", type=Path, required=True, metavar="WEIGHTS", help="a Hugging Face folder, or imported")
    parser.add_argument("--slot", default="primary", help="the camera (%(default)s)")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="default: all")
    parser.add_argument("--points", type=positive, default=32, help="of the grid, along each side (%(default)s)")
    limits = {
        "count": "most boxes a picture",
        "smallest_quality": "predicted intersection over union",
        "smallest_stability": "how little a mask depends on its threshold",
        "largest_overlap": "intersection over union of two boxes",
        "smallest_area": "of a mask, share of the picture",
        "largest_area": "of a mask, share of the picture",
    }
    for field in dataclasses.fields(Selection):
        option, kind = f"--{field.name.replace('_', '-')}", positive if field.name == "count" else float
        parser.add_argument(option, type=kind, default=field.default, help=f"{limits[field.name]} (%(default)s)")
    parser.add_argument("--batch", type=positive, default=4, help="pictures at a time (%(default)s)")
    parser.add_argument("--part", type=positive, default=128, help="steps that are written at a time (%(default)s)")
    add_cache(parser)
    add_jobs(parser)


def run(options: argparse.Namespace) -> int:
    accelerator.choose_platform()
    directory = read_directory(options.directory)
    spec = find_dataset(directory.name).spec
    selection = Selection(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Selection)})
    generation = MaskGeneration(points=options.points)
    detect = _detector(options.sam, generation, selection, options.batch)
    settings = {"weights": _digest(options.sam), "slot": options.slot, "points": generation.points}
    settings |= {"stability_offset": generation.stability_offset} | dataclasses.asdict(selection)
    for split in options.splits or directory.splits:
        started = time.perf_counter()
        making = BoxMaking(
            index=open_index(directory, split, options.cache, jobs=options.jobs),
            spec=spec,
            slot=options.slot,
            cache=options.cache,
            detect=detect,
            settings=settings,
            batch_size=options.batch,
            part_steps=options.part,
        )
        made = making.make()
        hint = "" if made.num_boxes else "; lower --smallest-quality or --smallest-stability where SAM sees objects"
        print(
            f"{split}: {made.num_boxes} boxes in {made.num_steps} pictures of {options.slot}, "
            f"{made.num_unreadable} pictures are unreadable and have none, {time.perf_counter() - started:.1f} s: "
            f"{made.folder}{hint}"
        )
    return 0


def _detector(folder: Path, generation: MaskGeneration, selection: Selection, batch_size: int) -> BoxDetector:
    file = (open_imported(folder).source if is_imported(folder) else folder) / "config.json"
    tree: dict[str, Any] = read_json(file)
    if tree.get("model_type") != "sam":
        raise InputError(f"{file}: model_type is {tree.get('model_type')!r}, expected 'sam'; --sam names SAM's weights")
    config = cast(SamConfig, pretrained.config_of("sam", tree, file=file))
    structure = abstract(lambda: config.build(nnx.Rngs(0)))
    part: Any = PretrainedPart(prefix="sam", family="sam", path=str(folder), frozen=True, settings=config.settings())
    found = load_pretrained(part, {f"sam/{path}": shape for path, shape in structure.shapes().items()})
    return BoxDetector(
        structure,
        {path.removeprefix("sam/"): array for path, array in found.items()},
        image_size=config.image_encoder.vit.image_size,
        generation=generation,
        selection=selection,
        batch_size=batch_size,
    )


def _digest(folder: Path) -> str:
    """Of the weights, wherever they lie."""
    files = sorted(folder.glob("*.safetensors"))
    return hashlib.sha256("".join(map(file_digest, files)).encode()).hexdigest()[:16]
