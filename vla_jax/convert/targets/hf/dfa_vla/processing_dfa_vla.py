"""What stands between a robot and DFA-VLA: as for every policy, but a robot needs no SAM."""

from typing import Any

import numpy as np

from .processing_vla import VlaProcessor, _grid


class DfaVlaProcessor(VlaProcessor):
    def _boxes(self, boxes: Any, images: dict[str, Any], steps: int) -> dict[str, np.ndarray]:
        """Without boxes, the squares of a grid stand in."""
        needs = self.config.requirements.get("boxes")
        if needs is not None and boxes is None:
            boxes = _grid(needs["count"])
        return super()._boxes(boxes, images, steps)
