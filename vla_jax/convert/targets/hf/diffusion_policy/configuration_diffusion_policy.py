"""Configuration of Diffusion Policy in PyTorch. Its keys are those of the JAX training configuration."""

from typing import Any

from .configuration_vla import VlaConfig


class DiffusionPolicyConfig(VlaConfig):
    """Sizes and wiring; see README.md for the action space, its units and frames."""

    model_type = "diffusion_policy"

    def __init__(
        self,
        clip: dict[str, Any] | None = None,
        cameras: list[str] | None = None,
        resnet: dict[str, Any] | None = None,
        window: int = 2,
        head: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        """Args: clip: None: no sentence is read."""
        self.clip = clip
        self.cameras = cameras or []
        self.resnet = resnet or {}
        self.window = window
        self.head = head or {}
        super().__init__(**kwargs)

    @property
    def condition_width(self) -> int:
        step = len(self.cameras) * self.resnet["out_width"] + len(self.action_space["proprio"])
        return self.window * step
