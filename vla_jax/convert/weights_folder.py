"""A new folder of weights, there whole or not at all, with a progress bar where somebody looks on."""

import contextlib
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


@contextlib.contextmanager
def weights_folder(out: Path, num_bytes: int) -> Iterator[tuple[Path, Callable[[int], None]]]:
    """As `new_folder`; the second value is told how many bytes were written, block after block.

    Raises: InputError: `out` exists, or its disk has no room for `num_bytes` or takes no more.
    """
    console = Console(stderr=True)
    free = shutil.disk_usage(next(folder for folder in out.absolute().parents if folder.is_dir())).free
    if free < num_bytes:
        raise InputError(f"--out {out}: {num_bytes:,} bytes are needed, {free:,} are free; name a folder elsewhere")
    bar = Progress(*COLUMNS, console=console, disable=not console.is_terminal, transient=True)
    try:
        with new_folder(out) as folder, bar:
            task = bar.add_task(out.name, total=num_bytes)
            yield folder, lambda written: bar.update(task, advance=written)
    except OSError as error:
        raise InputError(
            f"--out {out}: could not be written ({error.strerror or error}); nothing was left. {num_bytes:,} bytes are "
            f"needed, {free:,} were free"
        ) from error
