"""A stream of trajectories from a process of its own, so that TensorFlow stays out of the one that trains.

TensorFlow there sees no accelerator: it would take the memory that JAX needs.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from data_pipelines.compatibility.trajectories import NumpyDataset, in_order
from data_pipelines.workers import start_workers

HIDDEN = ("CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS")


@dataclasses.dataclass(frozen=True)
class SeparateProcess:
    """In the place of a dataset; the process starts with the first pass and ends with `close`, or with this one."""

    make: Callable[[], Any]
    """Makes the dataset; a function of a module, which is imported there, with `import tensorflow` inside it."""
    _numbers: Iterator[int] = dataclasses.field(default_factory=itertools.count, init=False, repr=False)

    def as_numpy_iterator(self) -> Iterator[Any]:
        number = next(self._numbers)
        ahead = self._workers.submit(_next, self.make, number)
        try:
            while (element := ahead.result()) is not None:
                ahead = self._workers.submit(_next, self.make, number)
                yield element
        finally:
            with contextlib.suppress(RuntimeError):  # the process has ended
                self._workers.submit(_forget, number)

    def close(self) -> None:
        """Passes that are under way end with an error."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    @functools.cached_property
    def _workers(self) -> ProcessPoolExecutor:
        return start_workers(1, _hide_accelerators)


# In that process.

_dataset: NumpyDataset | None = None
_passes: dict[int, Iterator[Any]] = {}


def _hide_accelerators() -> None:
    os.environ.update(dict.fromkeys(HIDDEN, ""))


def _next(make: Callable[[], Any], number: int) -> Any:
    global _dataset
    if _dataset is None:
        _dataset = in_order(make())
    if number not in _passes:
        _passes[number] = _dataset.as_numpy_iterator()
    return next(_passes[number], None)


def _forget(number: int) -> None:
    _passes.pop(number, None)
