"""A new folder of weights, there whole or not at all, with a progress bar where somebody looks on."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from vla_jax.run_directory import new_folder
from vla_jax.types import InputError

COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    DownloadColumn(),
    TransferSpeedColumn(),
    TimeRemainingColumn(),
)


@dataclasses.dataclass(frozen=True)
class WeightsFolder:
    path: Path
    """Its temporary name."""
    advance: Callable[[int], None]
    """Is told how many bytes were written, block after block."""
    digests: dict[Path, str]
    """To be filled in: of files whose bytes their writer had at hand."""


@contextlib.contextmanager
def weights_folder(out: Path, num_bytes: int) -> Iterator[WeightsFolder]:
    """As `new_folder`.

    Raises: InputError: `out` exists, or its disk has no room for `num_bytes` or takes no more.
    """
    console = Console(stderr=True)
    free = shutil.disk_usage(next(folder for folder in out.absolute().parents if folder.is_dir())).free
    if free < num_bytes:
        raise InputError(f"--out {out}: {num_bytes:,} bytes are needed, {free:,} are free; name a folder elsewhere")
    bar = Progress(*COLUMNS, console=console, disable=not console.is_terminal, transient=True)
    digests: dict[Path, str] = {}
    try:
        with new_folder(out, digests) as folder, bar:
            task = bar.add_task(out.name, total=num_bytes)
            yield WeightsFolder(folder, lambda written: bar.update(task, advance=written), digests)
    except OSError as error:
        raise InputError(
            f"--out {out}: could not be written ({error.strerror or error}); nothing was left. {num_bytes:,} bytes are "
            f"needed, {free:,} were free"
        ) from error
