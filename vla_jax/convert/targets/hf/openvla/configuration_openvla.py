"""Configuration of OpenVLA in PyTorch. Its keys are those of the JAX training configuration."""

from typing import Any

from .configuration_vla import VlaConfig


class OpenvlaConfig(VlaConfig):
    """Sizes and wiring; see README.md for the action space, its units and frames."""

    model_type = "openvla"

    def __init__(
        self,
        vlm: dict[str, Any] | None = None,
        camera: str = "primary",
        action_tokens: dict[str, Any] | None = None,
        bins: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        """Args: action_tokens: `vocab_size`, from which ids count down, and `num_edges` of the bins."""
        self.vlm = vlm or {}
        self.camera = camera
        self.action_tokens = action_tokens or {}
        self.bins = bins or {}
        super().__init__(**kwargs)
