"""The window of recent observations that a policy reads, made as training made it.

Axes: b robots, w window, y x pixels, p proprio, t text tokens.
"""

from collections import deque
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from vla_jax.types import DataRequirements, Observation


class History:
    """Of one robot: the last `window` pictures and (normalised) proprio vectors."""

    def __init__(self, requirements: DataRequirements):
        self._requirements = requirements
        self._steps: deque[tuple[dict[str, np.ndarray], np.ndarray]] = deque(maxlen=requirements.window)

    def add(self, images: dict[str, UInt8[np.ndarray, "y x 3"]], proprio: Float[np.ndarray, "p"]) -> None:
        """Args: images: by slot, of the required size; a camera left out is missing."""
        self._steps.append((images, proprio))

    def write(self, observation: Observation, row: int) -> None:
        """Fills a row of a zero observation; windows that start at a step are padded on the right, others left."""
        start = 0 if self._requirements.window_anchor == "first" else self._requirements.window - len(self._steps)
        for step, (images, proprio) in enumerate(self._steps, start):
            observation.timestep_mask[row, step] = True
            observation.proprio[row, step] = proprio
            for slot, picture in images.items():
                if slot in observation.images:
                    observation.images[slot][row, step] = picture
                    observation.image_masks[slot][row, step] = True


def gather(
    histories: list[History],
    tokens: tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]],
    requirements: DataRequirements,
    batch_size: int,
) -> Observation:
    """One observation of `batch_size` rows, the last ones empty where there are fewer robots: one compiled shape."""
    batch, window, length = batch_size, requirements.window, requirements.text_length
    leaves: dict[str, Any] = {  # on the host
        "images": {c.slot: np.zeros((batch, window, c.height, c.width, 3), np.uint8) for c in requirements.cameras},
        "image_masks": {camera.slot: np.zeros((batch, window), bool) for camera in requirements.cameras},
        "proprio": np.zeros((batch, window, requirements.action_space.proprio_width), np.float32),
        "timestep_mask": np.zeros((batch, window), bool),
        "instruction_tokens": np.zeros((batch, length), np.int32),
        "instruction_mask": np.zeros((batch, length), bool),
    }
    observation = Observation(**leaves)
    for row, history in enumerate(histories):
        history.write(observation, row)
        observation.instruction_tokens[row], observation.instruction_mask[row] = tokens[0][row], tokens[1][row]
    return observation
