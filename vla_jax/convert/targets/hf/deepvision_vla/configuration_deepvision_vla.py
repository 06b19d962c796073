"""Configuration of DeepVision-VLA in PyTorch. Its keys are those of the JAX training configuration."""

from typing import Any

from .configuration_vla import VlaConfig


class DeepvisionVlaConfig(VlaConfig):
    """Sizes and wiring; see README.md for the action space, its units and frames."""

    model_type = "deepvision_vla"

    def __init__(
        self,
        vlm: dict[str, Any] | None = None,
        expert: dict[str, Any] | None = None,
        expert_image_size: int = 512,
        reader: dict[str, Any] | None = None,
        integration: dict[str, Any] | None = None,
        head: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        """Args: integration: of which `type` names how language model and expert are joined."""
        self.vlm = vlm or {}
        self.expert = expert
        self.expert_image_size = expert_image_size
        self.reader = reader or {}
        self.integration = integration or {}
        self.head = head or {}
        super().__init__(**kwargs)

    @property
    def scene_slot(self) -> str:
        """The first camera's picture again, at the expert's size."""
        return f"{self.reader['cameras'][0]}_high"
