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
        last_attention: str = "qk",
        cameras: list[str] | None = None,
        window: int = 1,
        text_length: int = 16,
        mask_text_padding: bool = False,
        fusion: dict[str, Any] | None = None,
        image_pooling: dict[str, Any] | None = None,
        text_pooling: dict[str, Any] | None = None,
        proprio_width: int = 64,
        proprio_hidden_widths: list[int] | None = None,
        proprio_noise: float = 0.0,
        trunk: dict[str, Any] | None = None,
        head: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        self.clip = clip or {}
        self.scratch_vision = scratch_vision
        self.last_attention = last_attention
        self.cameras = cameras or []
        self.window = window
        self.text_length = text_length
        self.mask_text_padding = mask_text_padding
        self.fusion = fusion or {}
        self.image_pooling = image_pooling or {}
        self.text_pooling = text_pooling or {}
        self.proprio_width = proprio_width
        self.proprio_hidden_widths = proprio_hidden_widths or []
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
        image, text = self.image_pooling["out_width"], self.text_pooling["out_width"]
        return self.proprio_width + len(self.cameras) * image + text
