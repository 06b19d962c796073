"""Configuration of EF-VLA in PyTorch. Its keys are those of the JAX training configuration."""

from typing import Any

from .configuration_vla import VlaConfig


class EfVlaConfig(VlaConfig):
    """Sizes and wiring; see README.md for the action space, its units and frames."""

    model_type = "ef_vla"

    def __init__(
        self,
        clip: dict[str, Any] | None = None,
        scratch_vision: dict[str, Any] | None = None,
        clip_features: dict[str, Any] | None = None,
        cameras: list[str] | None = None,
        window: int = 1,
        text_length: int = 16,
        text_mask: str = "all",
        fusion: dict[str, Any] | None = None,
        image_pooling: dict[str, Any] | None = None,
        text_pooling: dict[str, Any] | None = None,
        proprio: dict[str, Any] | None = None,
        proprio_noise: float = 0.0,
        trunk: dict[str, Any] | None = None,
        head: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        self.clip = clip or {}
        self.scratch_vision = scratch_vision
        self.clip_features = clip_features or {}
        self.cameras = cameras or []
        self.window = window
        self.text_length = text_length
        self.text_mask = text_mask
        self.fusion = fusion or {}
        self.image_pooling = image_pooling or {}
        self.text_pooling = text_pooling
        self.proprio = proprio
        self.proprio_noise = proprio_noise
        self.trunk = trunk or {}
        self.head = head or {}
        super().__init__(**kwargs)

    @property
    def image_size(self) -> int:
        """Pixels; pictures are square."""
        return (self.scratch_vision["vit"] if self.scratch_vision else self.clip["vision"])["image_size"]

    @property
    def step_width(self) -> int:
        """Of the one token a time step: proprio, each camera, text."""
        parts = [self.proprio, *[self.image_pooling] * len(self.cameras), self.text_pooling]
        return sum(part["out_width"] for part in parts if part is not None)

    @property
    def trunk_width(self) -> int:
        return self.trunk["width"] or self.step_width
