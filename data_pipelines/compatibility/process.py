"""A stream of trajectories from a process of its own, so that TensorFlow stays out of the one that trains.

TensorFlow there sees no accelerator: it would take the memory that JAX needs.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

from data_pipelines.compatibility.trajectories import in_order
from data_pipelines.workers import start_workers

HIDDEN = ("CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS")
_elements: Iterator[Any] | None = None


@dataclasses.dataclass(frozen=True)
class SeparateProcess:
    """Give it to `open_stream` in the place of a dataset."""

    make: Callable[[], Any]
    """Makes the dataset; a function of a module, which is imported there, with `import tensorflow` inside it."""

    def as_numpy_iterator(self) -> Iterator[Any]:
        with start_workers(1, _hide_accelerators) as workers:
            ahead = workers.submit(_next, self.make)
            while (element := ahead.result()) is not None:
                ahead = workers.submit(_next, self.make)
                yield element


def _hide_accelerators() -> None:
    os.environ.update(dict.fromkeys(HIDDEN, ""))


def _next(make: Callable[[], Any]) -> Any:
    global _elements
    if _elements is None:
        _elements = in_order(make()).as_numpy_iterator()
    return next(_elements, None)
