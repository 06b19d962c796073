"""Options that several commands have, and checks of what a person typed."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.storage import Location, locate
from vla_jax.types import InputError

if TYPE_CHECKING:
    from data_pipelines.beam import Beam


def add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=_address, help="dataset directory, NAME/VERSION; a path or a URL")


def _address(text: str) -> Location:
    try:
        return locate(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_cache(parser: argparse.ArgumentParser) -> None:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vla_jax"
    parser.add_argument("--cache", type=Path, default=home, help="where index, tables and statistics lie (%(default)s)")


def add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="processes (%(default)s)")


def add_beam(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(further=[])
    parser.add_argument(
        "--parts", help="of --beam: a folder or URL that all workers see, for what they make (default: the cache)"
    )
    parser.add_argument(
        "--beam",
        action="store_true",
        help="read the shards in an Apache Beam pipeline, its options after `--`: --beam -- --runner=FlinkRunner; "
        "needs requirements-beam.txt",
    )


def beam_of(options: argparse.Namespace) -> "Beam | None":
    """What `add_beam` was given."""
    if not options.beam:
        if options.parts is not None:
            raise InputError(f"--parts {options.parts}: it is of --beam, which is not given")
        if options.further:
            raise InputError(f"-- {' '.join(options.further)}: options of a pipeline, but --beam is not given")
        return None
    try:
        from data_pipelines.beam import Beam
    except ImportError as error:
        raise InputError(
            f"--beam: {error}; make an environment of its own with `pip install -r requirements-beam.txt`"
        ) from error
    return Beam(options.further, options.parts)


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 1 on is expected")
    return int(text)


def check_writable(option: str, file: Path) -> None:
    """InputError before the work, where the result could not be written after it. Args: option: e.g. `--json`."""
    folder = file.parent
    if file.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        cause = "it is a folder" if file.is_dir() else f"{folder} is no folder that can be written"
        raise InputError(f"{option} {file}: {cause}; name a file in a folder that exists")
