# ruff: noqa: N999 (a keyword, but it is what the user types)
"""Turns a Hugging Face folder into a parameter folder: our names and layout, the same bits.

What it writes a policy's part may name in place of the Hugging Face folder (`--policy.clip-weights DIR`), and
`export` makes a Hugging Face folder of it again. No code of the folder is run, and nothing is fetched.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np

from vla_jax import pretrained
from vla_jax.convert.disk_parameters import disk_parameters
from vla_jax.convert.imported_folder import is_imported, write_imported
from vla_jax.convert.rules import family_names, find_family
from vla_jax.convert.safetensors_folder import SafetensorsFolder, interpreting, read_json
from vla_jax.convert.weights_folder import weights_folder
from vla_jax.parameters import matching
from vla_jax.types import InputError

HELP = "a parameter folder of Hugging Face weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", required=True, help=f"whose weights they are: {', '.join(family_names())}")
    parser.add_argument("--from", type=Path, required=True, metavar="HF_DIR", dest="source", help="a local folder")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="a cast; default: as the file has them")
    parser.add_argument(
        "--allow-missing",
        nargs="+",
        default=(),
        metavar="PATTERN",
        help="regular expressions of parameter paths that the folder may lack; they then lack here too",
    )


def run(options: argparse.Namespace) -> int:
    jax.config.update("jax_platforms", "cpu")
    started = time.perf_counter()
    if is_imported(options.source):
        raise InputError(f"--from {options.source}: is imported already; name it where weights are wanted")
    family, weights = find_family(options.family), SafetensorsFolder(options.source)
    file = options.source / "config.json"
    config = read_json(file)
    model = pretrained.config_of(options.family, config, file=file)
    with interpreting(file):
        shapes = pretrained.shapes_of(model)
    dispensable = matching(shapes, tuple(options.allow_missing))
    parameters = disk_parameters(weights, config, family, shapes, dispensable=dispensable)
    missing = sorted(shapes.keys() - parameters.keys())
    if options.dtype is not None:
        parameters = {path: tensor.cast(np.dtype(options.dtype)) for path, tensor in parameters.items()}
    num_bytes = sum(tensor.nbytes for tensor in parameters.values())
    with weights_folder(options.out, num_bytes) as folder:
        written = write_imported(
            folder.path,
            options.source,
            options.family,
            parameters,
            missing=missing,
            cast=options.dtype,
            advance=folder.advance,
        )
        folder.digests.update(written)
    seconds = time.perf_counter() - started
    absent = f"; absent, as --allow-missing says: {', '.join(missing)}" if missing else ""
    print(
        f"{options.out}: {len(weights.names())} tensors of {options.family} are {len(parameters)} parameters, "
        f"{num_bytes:,} bytes, in {seconds:.1f} s{absent}"
    )
    return 0
