"""Several frames, and depth, through the patch embedding of a released encoder: one picture's tokens come out.

Axes: b batch, f frames (the last is now), y x pixels, n patches, d width.
Source: DFA-VLA 4.1, "a 3-frame RGB stack (depth, when used, is normalised and concatenated)": the patch embedding is
inflated to 3 f channels, weights / f, and one more channel a frame for depth, weights zero.

The released kernel W stays where it is, so that its file loads, and its encoder stays exact on stills. What is learned
beside it is each earlier frame's deviation D_f from W / f:
    sum_f K_f x_f = W mean(x) + sum over earlier f of D_f (x_f - x_now),    K_f = W / f + D_f,    D_f = 0 at first
With the frame of now, whose kernel is W less the earlier ones', this is the inflated kernel, as many numbers included.
A frame that is missing is as the one of now.
"""

import dataclasses

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, UInt8

from vla_jax.encoders.vit import PatchEmbedding, VitConfig
from vla_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthConfig:
    max_metres: float = 2.0
    """What counts as 1; deeper is as deep. 0: nothing was measured there."""

    def __post_init__(self):
        if not self.max_metres > 0:
            raise InputError(f"policy.depth.max_metres={self.max_metres}: a positive number expected")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameStackConfig:
    num_frames: int
    depth: DepthConfig | None = None

    def build(self, vit: VitConfig, rngs: nnx.Rngs) -> "FrameStack":
        return FrameStack(self, vit, rngs=rngs)


class FrameStack(nnx.Module):
    def __init__(self, config: FrameStackConfig, vit: VitConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.deviations = self._kernel(config.num_frames - 1, 3, vit)
        self.depth = None if config.depth is None else self._kernel(config.num_frames, 1, vit)

    def __call__(
        self,
        patches: PatchEmbedding,
        frames: UInt8[Array, "b f y x 3"],
        mask: Bool[Array, "b f"],
        depths: Float32[Array, "b f y x"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Args: mask: False: the frame of now stands in, and depth is as if nothing was measured. depths: metres."""
        pixels = patches.normalize(frames)
        change = jnp.where(mask[:, :-1, None, None, None], pixels[:, :-1] - pixels[:, -1:], 0)
        embedded = patches.project(pixels[:, -1] + change.sum(axis=1) / self.config.num_frames)
        if self.deviations is not None:
            embedded = embedded + _project(change, self.deviations)
        if self.depth is not None and self.config.depth is not None and depths is not None:
            seen = jnp.where(mask[..., None, None], depths, 0) / self.config.depth.max_metres
            embedded = embedded + _project(jnp.clip(seen, 0, 1)[..., None], self.depth)
        return embedded

    @staticmethod
    def _kernel(num_frames: int, channels: int, vit: VitConfig) -> nnx.Param | None:
        if not num_frames:
            return None
        shape = (num_frames, vit.patch_size, vit.patch_size, channels, vit.width)
        return nnx.Param(jnp.zeros(shape, jnp.float32), logical_axes=(None, "patch", "patch", "feature", "embed"))


def _project(pixels: Float[Array, "b f y x k"], kernel: nnx.Param) -> Float[Array, "b n d"]:
    size = kernel.shape[1]
    weights = rearrange(kernel[...], "f y x k d -> (f y x k) d")
    cut = rearrange(pixels, "b f (r y) (c x) k -> b (r c) (f y x k)", y=size, x=size)
    return cut.astype(weights.dtype) @ weights
