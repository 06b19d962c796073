"""Configuration of Octo in PyTorch. Its keys are those of the JAX training configuration."""

from typing import Any

from .configuration_vla import VlaConfig


class OctoConfig(VlaConfig):
    """Sizes and wiring; see README.md for the action space, its units and frames."""

    model_type = "octo"

    def __init__(
        self,
        clip: dict[str, Any] | None = None,
        cameras: list[str] | None = None,
        image_sizes: list[int] | None = None,
        stem: dict[str, Any] | None = None,
        max_window: int = 10,
        text_length: int = 16,
        repeats_text: bool = True,
        num_readouts: int = 1,
        trunk: dict[str, Any] | None = None,
        head: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        self.clip = clip or {}
        self.cameras = cameras or []
        self.image_sizes = image_sizes or []
        self.stem = stem or {}
        self.max_window = max_window
        self.text_length = text_length
        self.repeats_text = repeats_text
        self.num_readouts = num_readouts
        self.trunk = trunk or {}
        self.head = head or {}
        super().__init__(**kwargs)

    def num_tokens(self, slot: str) -> int:
        """Of a camera's picture."""
        size = self.image_sizes[self.cameras.index(slot)]
        return (size // 2 ** len(self.stem["widths"])) ** 2
