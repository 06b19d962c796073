"""Configuration of EF-VLA in the layout of its published PyTorch code. Its keys are those of the JAX configuration."""

from typing import Any

from .configuration_vla import VlaConfig


class OtterConfig(VlaConfig):
    model_type = "otter"

    def __init__(
        self,
        clip: dict[str, Any] | None = None,
        cameras: list[str] | None = None,
        text_mask: str = "all",
        image_pooling: dict[str, Any] | None = None,
        text_pooling: dict[str, Any] | None = None,
        proprio: dict[str, Any] | None = None,
        proprio_noise: float = 0.0,
        trunk: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        self.clip = clip or {}
        self.cameras = cameras or []
        self.text_mask = text_mask
        self.image_pooling = image_pooling or {}
        self.text_pooling = text_pooling or {}
        self.proprio = proprio or {}
        self.proprio_noise = proprio_noise
        self.trunk = trunk or {}
        super().__init__(**kwargs)
