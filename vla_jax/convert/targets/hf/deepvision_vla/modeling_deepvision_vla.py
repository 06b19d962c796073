"""DeepVision-VLA in PyTorch: QwenVLA-OFT whose last layers share their attention with a vision expert.

Source: DeepVision-VLA (arXiv 2603.15618). Everything that this folder needs is in it.
"""

from typing import Any

from torch import Tensor

from .configuration_deepvision_vla import DeepvisionVlaConfig
from .expert_deepvision_vla import build_expert
from .integration_deepvision_vla import INTEGRATIONS, Scene
from .qwen_vla import QwenVlaModel


class DeepvisionVlaModel(QwenVlaModel):
    config_class = DeepvisionVlaConfig

    def __init__(self, config: DeepvisionVlaConfig):
        super().__init__(config)
        self.expert = None if config.expert is None else build_expert(config.expert)
        self.integration = INTEGRATIONS[config.integration["type"]](config.integration, config.vlm, config.expert)
        self.post_init()

    def _stages(self, observation: dict[str, Any]) -> dict[str, Tensor]:
        scene = self._scene(observation)
        size = self.config.reader["image_size"] // self.vlm.patch_size
        beside = self.integration.beside(self.expert, scene, (size, size))
        pictures = self._see(observation, blocks=self.integration.tower_blocks, beside=beside)
        sequence = self._sequence(observation, pictures)
        found = self.integration(self.vlm, self.expert, sequence, pictures[0], scene)
        return (
            self._named(pictures)
            | found.stages
            | {
                "action_tokens": found.tokens[:, -sequence.num_actions :],
                "actions": self.action_head(found.tokens),
            }
        )

    def _loss(self, stages: dict[str, Tensor], action: Tensor, action_mask: Tensor) -> Tensor:
        loss = super()._loss(stages, action, action_mask)
        return loss + stages["alignment"] if "alignment" in stages else loss

    def _scene(self, observation: dict[str, Any]) -> Scene | None:
        if self.expert is None:
            return None
        slot = self.config.scene_slot
        return Scene(observation["images"][slot][:, -1], observation["image_masks"][slot][:, -1])
