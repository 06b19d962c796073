"""Configuration of DFA-VLA in PyTorch. Its keys are those of the JAX training configuration."""

from typing import Any

from transformers import Dinov2Config, ViTConfig

from .configuration_vla import VlaConfig

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CELL = 16
"""Pixels of `resolution` a side of a cell of the grid."""


class DfaVlaConfig(VlaConfig):
    """Sizes and wiring; see README.md for the action space, its units and frames."""

    model_type = "dfa_vla"

    def __init__(
        self,
        dinov2: dict[str, Any] | None = None,
        imagenet_vit: dict[str, Any] | None = None,
        scratch_vision: dict[str, Any] | None = None,
        language: dict[str, Any] | None = None,
        camera: str = "primary",
        resolution: int = 224,
        grid_mode: str = "input_resize",
        num_frames: int = 1,
        frames: str = "inflate",
        depth: dict[str, Any] | None = None,
        text_length: int = 32,
        boxes: dict[str, Any] | None = None,
        mvsm: dict[str, Any] | None = None,
        dfaf: dict[str, Any] | None = None,
        elementwise: dict[str, Any] | None = None,
        contrast: dict[str, Any] | None = None,
        prefix_layers: int = 3,
        attention: str = "mutual_prefix",
        order: str = "text_first",
        candidates: str = "projected",
        applied: str = "once",
        sequence: str = "joined",
        proprio_token: bool = False,
        head: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        self.dinov2, self.imagenet_vit, self.scratch_vision = dinov2, imagenet_vit, scratch_vision
        self.language = language or {}
        self.camera = camera
        self.resolution, self.grid_mode = resolution, grid_mode
        self.num_frames, self.frames, self.depth = num_frames, frames, depth
        self.text_length = text_length
        self.boxes = boxes
        self.mvsm, self.dfaf = mvsm or {}, dfaf
        self.elementwise, self.contrast = elementwise, contrast
        self.prefix_layers = prefix_layers
        self.attention, self.order = attention, order
        self.candidates, self.applied, self.sequence = candidates, applied, sequence
        self.proprio_token = proprio_token
        self.head = head or {}
        super().__init__(**kwargs)

    @property
    def vision(self) -> dict[str, Any]:
        return self.dinov2 or self.imagenet_vit or self.scratch_vision or {}

    @property
    def normalization(self) -> tuple[Any, Any]:
        """Mean and standard deviation of RGB in 0..1."""
        if self.scratch_vision:
            return self.scratch_vision["mean"], self.scratch_vision["std"]
        return IMAGENET if self.dinov2 else HALF

    @property
    def cells(self) -> int | None:
        """As many a side the encoder's grid is resampled to; None: it stays as it is."""
        return self.resolution // CELL if self.grid_mode == "feature_resize" else None

    @property
    def width(self) -> int:
        """Of the language model."""
        return self.language["decoder"]["width"]

    @property
    def memory_width(self) -> int:
        """Of what actions are decoded from."""
        return self.elementwise["width"] if self.elementwise else self.width

    def dinov2_config(self) -> Dinov2Config:
        assert self.dinov2 is not None
        return Dinov2Config(
            **_sizes(self.dinov2),
            mlp_ratio=self.dinov2["mlp_ratio"],
            use_swiglu_ffn=self.dinov2["gated_mlp"],
            use_mask_token=self.dinov2["mask_token"],
            layer_norm_eps=1e-6,
            attn_implementation="sdpa",
        )

    def vit_config(self) -> ViTConfig:
        vision = self.vision
        return ViTConfig(
            **_sizes(vision),
            intermediate_size=vision["mlp_width"],
            hidden_act=vision.get("activation", "gelu"),
            layer_norm_eps=vision.get("epsilon", 1e-12),
            attn_implementation="sdpa",
        )


def _sizes(vision: dict[str, Any]) -> dict[str, int]:
    return {
        "hidden_size": vision["width"],
        "num_hidden_layers": vision["num_layers"],
        "num_attention_heads": vision["num_heads"],
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
    }
