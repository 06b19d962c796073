"""Configuration of OpenVLA-OFT in PyTorch. Its keys are those of the JAX training configuration."""

from typing import Any

from .configuration_vla import VlaConfig


class OpenvlaOftConfig(VlaConfig):
    """Sizes and wiring; see README.md for the action space, its units and frames."""

    model_type = "openvla_oft"

    def __init__(
        self,
        vlm: dict[str, Any] | None = None,
        cameras: list[str] | None = None,
        reads_proprio: bool = True,
        film: bool = False,
        end_id: int = 2,
        head: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        self.vlm = vlm or {}
        self.cameras = cameras or []
        self.reads_proprio = reads_proprio
        self.film = film
        self.end_id = end_id
        self.head = head or {}
        super().__init__(**kwargs)

    @property
    def text_width(self) -> int:
        return self.vlm["language"]["decoder"]["width"]
