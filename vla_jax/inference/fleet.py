"""Several robots that one policy drives, each in its slot and at its own time, all of them in one compiled call.

A slot is started, senses, and is started again for the next trial, whatever the others are doing: rows of a call do not
see one another. Slots without a robot are computed, too, so that there is one shape.

Axes: b robots, h horizon, a action, p proprio, t text tokens, y x pixels.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from vla_jax.inference.history import History, gather
from vla_jax.inference.readers import Reader


class Fleet:
    def __init__(self, reader: Reader, num_robots: int):
        self._reader, reads = reader, reader.requirements
        self._kept = reader.empty(num_robots)
        self._histories = [History(reads) for _ in range(num_robots)]
        self._ids = np.zeros((num_robots, reads.text_length), np.int32)
        self._words = np.zeros((num_robots, reads.text_length), bool)
        self._fresh = np.zeros(num_robots, bool)
        self._chunks: np.ndarray | None = None
        self._advance()  # nobody has sensed anything: it compiles, and no robot waits for that

    def start(self, robot: int, ids: Int[np.ndarray, "1 t"], mask: Bool[np.ndarray, "1 t"]) -> None:
        """A new trial. Args: ids, mask: of its instruction, as a tokenizer gives them."""
        self._kept = self._reader.start(self._kept, robot, ids, mask)
        self._ids[robot], self._words[robot] = ids[0], mask[0]
        self._histories[robot] = History(self._reader.requirements)
        self._fresh[robot] = False

    def sense(self, robot: int, images: dict[str, UInt8[np.ndarray, "y x 3"]], proprio: Float[np.ndarray, "p"]) -> None:
        """What a robot finds at its next step. Args: proprio: normalised."""
        self._histories[robot].add(images, proprio)
        self._fresh[robot] = True

    def act(self, robots: list[int]) -> Float[np.ndarray, "b h a"]:
        """Normalised chunks of those asked for. To be called each time that robots have sensed, also with none."""
        if self._fresh.any() and (robots or self._reader.reads_every_step):
            self._advance()
        assert self._chunks is not None
        return self._chunks[robots]

    def _advance(self) -> None:
        observation = gather(self._histories, (self._ids, self._words), self._reader.requirements, len(self._fresh))
        self._kept, chunks = self._reader.step(self._kept, observation, self._fresh)
        self._chunks = np.asarray(chunks)
        self._fresh[:] = False
