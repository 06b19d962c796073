"""Qwen3-VL's vision tower: a ViT whose patches are merged two by two, after some of its blocks as well (DeepStack).

Axes: b pictures, y x pixels, n patches, m merged patches (n / 4), k DeepStack levels, d width, o out width.
Source: Qwen3-VL technical report (arXiv 2511.21631); transformers 5.23 `models/qwen3_vl`; DeepStack (2406.04334).

Patches and merged patches are row-major here; transformers orders patches by the window that they are merged in, which
changes nothing but their order: positions belong to patches, and attention does not see the order. A picture attends
to itself alone. The layer norm of the last merger, which comes before the merge, is the ViT's final norm; those of the
DeepStack mergers come after it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, UInt8

from vla_jax.encoders.vit import LearnedRotaryPositions, VitConfig
from vla_jax.nn.mlp import ACTIVATION_NAMES, ACTIVATIONS, MlpConfig, activation_of
from vla_jax.nn.norms import layer_norm
from vla_jax.nn.stack import NO_TAPS, Taps
from vla_jax.types import InputError, TokenGrid

EPSILON = 1e-6
"""Of every layer norm; config.json does not say it."""


class PictureTokens(NamedTuple):
    merged: TokenGrid
    """What stands at the picture's places in the text; [b, m, o]."""
    deepstack: Float[Array, "k b m o"]
    """What is added to them after the first k layers of the language model."""
    patches: TokenGrid
    """The ViT's own, after its final norm, with what `taps` asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen3VlVisionConfig:
    vit: VitConfig
    out_width: int
    deepstack: tuple[int, ...]
    """Blocks, counted from 0, after which patches are merged for the language model's first layers."""
    merge_size: int = 2
    """Patches along one side of those that are merged."""

    def __post_init__(self):
        depth = self.vit.num_layers
        if list(self.deepstack) != sorted(set(self.deepstack)) or not all(0 <= i < depth for i in self.deepstack):
            raise InputError(f"deepstack={self.deepstack}: ascending blocks of 0 to {depth - 1} expected")

    @property
    def merged_width(self) -> int:
        return self.vit.width * self.merge_size**2

    def build(self, rngs: nnx.Rngs) -> "Qwen3VlVision":
        return Qwen3VlVision(self, rngs=rngs)

    def settings(self) -> dict[str, Any]:
        """`vision_config` of config.json."""
        vit, positions = self.vit, self.vit.positions
        assert isinstance(positions, LearnedRotaryPositions)
        return {theirs: getattr(vit, ours) for theirs, ours in SIZES.items()} | {
            "hidden_act": ACTIVATION_NAMES[vit.activation],
            "num_position_embeddings": vit.grid_size**2,
            "rope_theta": positions.theta,
            "out_hidden_size": self.out_width,
            "spatial_merge_size": self.merge_size,
            "deepstack_visual_indexes": list(self.deepstack),
        }


class Qwen3VlVision(nnx.Module):
    def __init__(self, config: Qwen3VlVisionConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vit = config.vit.build(rngs)
        self.merger = _mlp(config).build(config.merged_width, rngs)
        keys = jax.random.split(rngs.params(), len(config.deepstack))
        self.deepstack = jax.vmap(lambda key: DeepStackMerger(config, rngs=nnx.Rngs(key)))(keys)

    def __call__(
        self,
        images: UInt8[Array, "b y x 3"],
        *,
        taps: Taps = NO_TAPS,
        beside: Float[Array, "b m w"] | None = None,
    ) -> PictureTokens:
        """Args: beside: added to what the merger's first layer makes of each window: its share of further features that
        stand beside the window's own, under a first layer that is wider by them.

        Raises InputError where a side of the pictures is no multiple of `merge_size` patches.
        """
        merge, levels = self.config.merge_size, self.config.deepstack
        rows, columns = self.vit.grid(images)
        if rows % merge or columns % merge:
            raise InputError(
                f"pictures of {images.shape[1]} x {images.shape[2]} pixels; multiples of "
                f"{merge * self.config.vit.patch_size} expected"
            )
        patches = self.vit(images, taps=taps._replace(layers=(*levels, *taps.layers)))
        assert patches.layers is not None
        of_levels, of_taps = patches.layers[: len(levels)], patches.layers[len(levels) :]
        hidden = self.merger.up(_merge(patches.tokens, columns, merge))
        hidden = hidden if beside is None else hidden + beside.astype(hidden.dtype)
        merged = self.merger.down(ACTIVATIONS[self.merger.activation](hidden))
        _, deepstack = jax.lax.scan(
            lambda _, level: (None, level[0](_merge(level[1], columns, merge))), None, (self.deepstack, of_levels)
        )
        return PictureTokens(
            merged=TokenGrid(tokens=merged, rows=rows // merge, columns=columns // merge),
            deepstack=deepstack,
            patches=dataclasses.replace(patches, layers=of_taps if taps.layers else None),
        )


class DeepStackMerger(nnx.Module):
    def __init__(self, config: Qwen3VlVisionConfig, *, rngs: nnx.Rngs):
        self.norm = layer_norm(config.merged_width, epsilon=EPSILON, rngs=rngs)
        self.mlp = _mlp(config).build(config.merged_width, rngs)

    def __call__(self, windows: Float[Array, "b m w"]) -> Float[Array, "b m o"]:
        return self.mlp(self.norm(windows))


def _mlp(config: Qwen3VlVisionConfig) -> MlpConfig:
    """Of every merger; its GELU is exact, the blocks' is not."""
    return MlpConfig(hidden_width=config.merged_width, activation="gelu", out_width=config.out_width)


def _merge(patches: Float[Array, "b n d"], columns: int, size: int) -> Float[Array, "b m w"]:
    """Windows of size x size patches, side by side in one vector, row by row."""
    pattern = "b (row i column j) d -> b (row column) (i j d)"
    return rearrange(patches, pattern, column=columns // size, i=size, j=size)


SIZES = {
    "hidden_size": "width",
    "intermediate_size": "mlp_width",
    "depth": "num_layers",
    "num_heads": "num_heads",
    "patch_size": "patch_size",
    "temporal_patch_size": "num_frames",
}
"""transformers' words -> ours."""


def from_settings(settings: Mapping[str, Any]) -> Qwen3VlVisionConfig:
    """The tower whose `settings()` these are."""
    side = round(settings["num_position_embeddings"] ** 0.5)
    if side**2 != settings["num_position_embeddings"]:
        found = settings["num_position_embeddings"]
        raise InputError(f"config.json: vision_config.num_position_embeddings is {found}, expected a square")
    words: dict[str, Any] = {ours: settings[theirs] for theirs, ours in SIZES.items()}
    vit = VitConfig(
        **words,
        activation=activation_of(settings, "vision_config."),
        image_size=side * settings["patch_size"],
        epsilon=EPSILON,
        positions=LearnedRotaryPositions(
            of_class=False, interpolation="bilinear_corners", theta=settings["rope_theta"]
        ),
        class_token=False,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    return Qwen3VlVisionConfig(
        vit=vit,
        out_width=settings["out_hidden_size"],
        deepstack=tuple(settings["deepstack_visual_indexes"]),
        merge_size=settings["spatial_merge_size"],
    )


RELEASED = {
    "hidden_act": "gelu_pytorch_tanh",
    "patch_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "num_position_embeddings": 2304,
    "rope_theta": 10_000.0,
    "num_heads": 16,
}
"""What all releases have in common."""
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "depth": 24, "deepstack_visual_indexes": [5, 11, 17]}
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "depth": 27, "deepstack_visual_indexes": [8, 16, 24]}


def qwen3_vl_2b() -> Qwen3VlVisionConfig:
    return from_settings(RELEASED | LARGE | {"out_hidden_size": 2048})


def qwen3_vl_4b() -> Qwen3VlVisionConfig:
    return from_settings(RELEASED | LARGE | {"out_hidden_size": 2560})


def qwen3_vl_8b() -> Qwen3VlVisionConfig:
    return from_settings(RELEASED | SO400M | {"out_hidden_size": 4096})


PRESETS = {"qwen3_vl_2b": qwen3_vl_2b, "qwen3_vl_4b": qwen3_vl_4b, "qwen3_vl_8b": qwen3_vl_8b}


def tiny() -> Qwen3VlVisionConfig:
    """The CPU twin; its sizes differ from one another."""
    sizes = {"hidden_size": 24, "intermediate_size": 40, "depth": 5, "num_heads": 3, "patch_size": 4}
    levels = {"num_position_embeddings": 36, "out_hidden_size": 20, "deepstack_visual_indexes": [0, 2, 3]}
    return from_settings(RELEASED | sizes | levels)


def small(*, image_size: int, patch_size: int, width: int, num_layers: int, out_width: int) -> Qwen3VlVisionConfig:
    """To be trained from nothing on a CPU; DeepStack after the first block alone."""
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "depth": num_layers, "num_heads": width // 16}
    pictures = {"patch_size": patch_size, "num_position_embeddings": (image_size // patch_size) ** 2}
    levels = {"out_hidden_size": out_width, "deepstack_visual_indexes": [0], "temporal_patch_size": 1}
    tower = from_settings(RELEASED | sizes | pictures | levels)
    return dataclasses.replace(tower, vit=dataclasses.replace(tower.vit, remat="none"))
