"""SAM's prompts as tokens: points and boxes by Fourier features of their places, a mask by convolutions.

Axes: b batch, m masks asked for of a picture, p points of one of them, y x low-resolution pixels (four a patch), n
patches, s prompt tokens, d width, f = d / 2 frequencies.
Places are x, y in pixels of the picture as the encoder reads it; a pixel's centre is half a pixel further.
Source: Kirillov et al. 2023, appendix A; Tancik et al. 2020.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.lax import Precision
from jaxtyping import Array, Float, Int

from vla_jax.nn.convolution import convolution
from vla_jax.nn.mlp import ACTIVATIONS, Activation
from vla_jax.nn.norms import layer_norm

BACKGROUND, OBJECT, NOT_A_POINT, PADDING = 0, 1, -1, -10
"""Labels of points."""


class Prompts(NamedTuple):
    """Any of them; points and boxes of as many masks, and a mask input of each picture."""

    points: Float[Array, "b m p 2"] | None = None
    labels: Int[Array, "b m p"] | None = None
    """Of points; None: all lie on the object."""
    boxes: Float[Array, "b m 4"] | None = None
    """Left, upper, right, lower."""
    masks: Float[Array, "b y x"] | None = None
    """Logits of an earlier answer."""


class PromptTokens(NamedTuple):
    sparse: Float[Array, "b m s d"]
    """Of points and boxes; none (s = 0, m = 1) where there is a mask alone."""
    dense: Float[Array, "#b n d"]
    """To be added to the image embedding."""


class FourierFeatures(nnx.Module):
    def __init__(self, width: int, *, rngs: nnx.Rngs):
        shape = (2, width // 2)
        self.frequencies = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), shape), logical_axes=(None, "embed"))

    def __call__(self, places: Float[Array, "*rest 2"]) -> Float[Array, "*rest d"]:
        """Angles are float32 whatever the model computes in. Args: places: x, y in shares of the picture."""
        places, frequencies = (array.astype(jnp.float32) for array in (places, self.frequencies[...]))
        angles = 2 * jnp.pi * jnp.matmul(2 * places - 1, frequencies, precision=Precision.HIGHEST)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).astype(self.frequencies[...].dtype)

    def grid(self, size: int) -> Float[Array, "n d"]:
        """Of the centres of size x size patches."""
        centres = (jnp.arange(size) + 0.5) / size
        return self(jnp.stack(jnp.meshgrid(centres, centres), axis=-1).reshape(-1, 2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamPromptEncoderConfig:
    width: int = 256
    mask_width: int = 16
    """Of the mask input's second map; its first has a quarter of it."""
    activation: Activation = "gelu"
    epsilon: float = 1e-6


class SamPromptEncoder(nnx.Module):
    def __init__(self, config: SamPromptEncoderConfig, image_size: int, grid_size: int, *, rngs: nnx.Rngs):
        self.config, self.image_size, self.grid_size = config, image_size, grid_size
        self.point_kinds = _table((4,), config.width, rngs)
        """Background, object, upper left and lower right corner of a box."""
        self.not_a_point = _table((), config.width, rngs)
        self.no_mask = _table((), config.width, rngs)
        quarter = config.mask_width // 4
        self.mask_in = convolution(1, quarter, 2, stride=2, rngs=rngs)
        self.mask_in_norm = layer_norm(quarter, epsilon=config.epsilon, rngs=rngs)
        self.mask_middle = convolution(quarter, config.mask_width, 2, stride=2, rngs=rngs)
        self.mask_middle_norm = layer_norm(config.mask_width, epsilon=config.epsilon, rngs=rngs)
        self.mask_out = convolution(config.mask_width, config.width, 1, rngs=rngs)

    def __call__(self, prompts: Prompts, features: FourierFeatures) -> PromptTokens:
        parts = []
        if prompts.points is not None:
            parts.append(self._points(prompts, features))
        if prompts.boxes is not None:
            parts.append(self._boxes(prompts.boxes, features))
        batch = 1 if prompts.masks is None else len(prompts.masks)
        empty = jnp.zeros((batch, 1, 0, self.config.width), self.no_mask[...].dtype)
        return PromptTokens(jnp.concatenate(parts, axis=2) if parts else empty, self._dense(prompts.masks))

    def _points(self, prompts: Prompts, features: FourierFeatures) -> Float[Array, "b m s d"]:
        points, labels = prompts.points, prompts.labels
        assert points is not None
        labels = jnp.full(points.shape[:-1], OBJECT) if labels is None else labels
        if prompts.boxes is None:  # a place for a box is always taken
            points = jnp.pad(points, ((0, 0), (0, 0), (0, 1), (0, 0)))
            labels = jnp.pad(labels, ((0, 0), (0, 0), (0, 1)), constant_values=NOT_A_POINT)
        tokens, labels = features((points + 0.5) / self.image_size), labels[..., None]
        tokens = jnp.where(labels == NOT_A_POINT, self.not_a_point[...], tokens)
        tokens = jnp.where(labels == PADDING, 0.0, tokens)
        for kind in (BACKGROUND, OBJECT):
            tokens = tokens + jnp.where(labels == kind, self.point_kinds[...][kind], 0.0)
        return tokens

    def _boxes(self, boxes: Float[Array, "b m 4"], features: FourierFeatures) -> Float[Array, "b m 2 d"]:
        corners = boxes.reshape(*boxes.shape[:2], 2, 2)
        return features((corners + 0.5) / self.image_size) + self.point_kinds[...][2:]

    def _dense(self, masks: Float[Array, "b y x"] | None) -> Float[Array, "#b n d"]:
        if masks is None:
            return jnp.broadcast_to(self.no_mask[...], (1, self.grid_size**2, self.config.width))
        activation = ACTIVATIONS[self.config.activation]
        masks = masks.astype(self.no_mask[...].dtype)
        x = activation(self.mask_in_norm(self.mask_in(masks[..., None])))
        x = activation(self.mask_middle_norm(self.mask_middle(x)))
        return self.mask_out(x).reshape(len(masks), -1, self.config.width)


def _table(rows: tuple[int, ...], width: int, rngs: nnx.Rngs) -> nnx.Param:
    axes = (None,) * len(rows) + ("embed",)
    return nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (*rows, width)), logical_axes=axes)
