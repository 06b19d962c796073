"""QwenVLA-OFT in PyTorch: Qwen3-VL reads a picture, words and empty action tokens; a perceptron makes actions of these.

Source: DeepVision-VLA (arXiv 2603.15618) section 3.3.1. Everything that this folder needs is in it.
"""

from typing import Any

from torch import Tensor

from .configuration_qwenvla_oft import QwenvlaOftConfig
from .qwen_vla import QwenVlaModel


class QwenvlaOftModel(QwenVlaModel):
    config_class = QwenvlaOftConfig

    def __init__(self, config: QwenvlaOftConfig):
        super().__init__(config)
        self.post_init()

    def _stages(self, observation: dict[str, Any]) -> dict[str, Tensor]:
        pictures = self._see(observation)
        sequence = self._sequence(observation, pictures)
        x = self.vlm.run(sequence, sequence.embeddings, (0, len(self.vlm.layers)))
        tokens = self.vlm.norm(x)
        return self._named(pictures) | {
            "action_tokens": tokens[:, -sequence.num_actions :],
            "actions": self.action_head(tokens),
        }
