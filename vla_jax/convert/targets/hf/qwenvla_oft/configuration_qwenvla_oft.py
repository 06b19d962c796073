"""Configuration of QwenVLA-OFT in PyTorch. Its keys are those of the JAX training configuration."""

from typing import Any

from .configuration_vla import VlaConfig


class QwenvlaOftConfig(VlaConfig):
    """Sizes and wiring; see README.md for the action space, its units and frames."""

    model_type = "qwenvla_oft"

    def __init__(
        self,
        vlm: dict[str, Any] | None = None,
        reader: dict[str, Any] | None = None,
        head: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        self.vlm = vlm or {}
        self.reader = reader or {}
        self.head = head or {}
        super().__init__(**kwargs)
