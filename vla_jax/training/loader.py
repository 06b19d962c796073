"""Host batches to global `jax.Array`s, prepared ahead by a background thread.

Axes: b batch: the rows that this process reads on the host, the global batch on the devices.
"""

import queue
import threading
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from vla_jax import sharding
from vla_jax.types import Batch

_POLL_SECONDS = 0.1


class Loader:
    """An iterator of global batches. Errors of the source are raised where its batch would have come."""

    def __init__(self, source: Iterator[Batch], mesh: Mesh, *, batch_size: int, depth: int = 2):
        """Args: source: the rows `sharding.process_rows(mesh, batch_size)`; closed by `close` where it can be.
        batch_size: global. depth: batches held ready.
        """
        self._source = source
        self._sharding = sharding.batch_sharding(mesh)
        self._batch_size = batch_size
        self._rows = sharding.process_rows(mesh, batch_size)
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=depth)
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fill, name="loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        if self._error is not None:
            raise self._error
        batch = self._ready.get()
        if isinstance(batch, BaseException):
            self._error = batch
            raise batch
        return batch

    def close(self) -> None:
        """Stops and joins the thread, then closes the source. Safe to call twice."""
        self._stopping.set()
        self._thread.join()
        if hasattr(self._source, "close"):
            self._source.close()

    def _fill(self) -> None:
        try:
            for batch in self._source:
                if not self._hand_over(self._place(batch)):
                    return
            self._hand_over(StopIteration())
        except BaseException as error:
            self._hand_over(error)

    def _place(self, batch: Batch) -> Batch:
        return jax.tree.map(self._place_leaf, batch)

    def _place_leaf(self, leaf: np.ndarray) -> jax.Array:
        first, num_rows = self._rows.start, self._rows.stop - self._rows.start
        assert len(leaf) == num_rows, f"the source gives {len(leaf)} rows, this process reads {num_rows}"

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop = sharding.row_bounds(index[0], self._batch_size)
            return leaf[start - first : stop - first]

        return jax.make_array_from_callback((self._batch_size, *leaf.shape[1:]), self._sharding, part)

    def _hand_over(self, item: Batch | BaseException) -> bool:
        while not self._stopping.is_set():
            try:
                self._ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False
