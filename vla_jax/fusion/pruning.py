"""Action-guided visual pruning: which tokens of a vision expert lie where the action tokens look.

Axes: b batch, n tokens of the language model, r guiding rows (action tokens), v visual tokens, l reference layers,
h heads, g heads of keys, f head width, k kept tokens, y x rows and columns of the expert's grid.
Source: DeepVision-VLA section 3.3: A^l [r, v], m^l = mean over rows, m = mean over reference layers, m~ = I(m) on the
expert's grid, S = TopK(m~). Not stated there and resolved here: the softmax is the layer's own, over all that a row may
attend to, in float32, of which the visual columns are taken; heads are averaged before rows; I is bilinear without
aligned corners; no gradient flows through the map or the choice. The alternatives are `PruningConfig`'s.

The map needs the guiding rows alone: r x n scores a layer, made inside the layer (`Taps.kept`), so that nothing of the
size of a layer's keys is held.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from vla_jax.nn.attention import Projections
from vla_jax.nn.interpolation import resize_grid
from vla_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruningConfig:
    ratio: float = 0.5
    """Share of the expert's tokens that is left out."""
    head_reduction: Literal["mean", "max"] = "mean"
    normalization: Literal["row", "visual"] = "row"
    """`visual`: a row's weights on visual tokens are made to sum to one."""
    interpolation: Literal["bilinear", "nearest", "bicubic"] = "bilinear"

    def __post_init__(self):
        if not 0 <= self.ratio < 1:
            raise InputError(f"policy.pruning.ratio={self.ratio}: a share below 1 expected")

    def num_kept(self, num_tokens: int) -> int:
        return max(1, round(num_tokens * (1 - self.ratio)))


class Rows(NamedTuple):
    """What looks, and at what."""

    start: int
    stop: int
    """Places of the guiding rows."""
    columns: tuple[int, int]
    """Places of the visual tokens."""


def look(config: PruningConfig, rows: Rows, mask: Bool[Array, "b n n"] | None) -> Callable[[Projections], Array]:
    """What `Taps.kept` is to be: a layer's A, [b, r, v], heads reduced. Args: mask: the layer's; None: all see all."""
    return functools.partial(_look, config, rows, mask)


def _look(
    config: PruningConfig, rows: Rows, mask: Bool[Array, "b n n"] | None, found: Projections
) -> Float[Array, "b r v"]:
    query, key = jax.lax.stop_gradient((found.query[:, rows.start : rows.stop], found.key))
    groups, width = key.shape[2:]
    query = rearrange(query, "b r (g m) f -> b r g m f", g=groups)
    scores = jnp.einsum("brgmf,bngf->brgmn", query, key, preferred_element_type=jnp.float32) * width**-0.5
    if mask is not None:
        is_seen = mask[:, rows.start : rows.stop, None, None]
        scores = jnp.where(is_seen, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1)
    weights = rearrange(weights[..., slice(*rows.columns)], "b r g m v -> b r (g m) v")
    if config.normalization == "visual":
        weights = weights / jnp.maximum(weights.sum(-1, keepdims=True), jnp.finfo(jnp.float32).tiny)
    return weights.mean(axis=2) if config.head_reduction == "mean" else weights.max(axis=2)


def mean_over_rows(layers: Float[Array, "l b r v"], row_mask: Bool[Array, "b r"] | None = None) -> Float[Array, "b v"]:
    """m: over reference layers and guiding rows. Args: row_mask: None: all rows count."""
    over_layers = layers.mean(axis=0)
    if row_mask is None:
        return over_layers.mean(axis=1)
    share = row_mask / jnp.maximum(row_mask.sum(axis=1, keepdims=True), 1)
    return jnp.einsum("br,brv->bv", share.astype(jnp.float32), over_layers)


def enlarge(
    config: PruningConfig, scores: Float[Array, "b v"], source: tuple[int, int], target: tuple[int, int]
) -> Float[Array, "b n"]:
    """m~ = I(m). Args: source, target: rows and columns of the grids."""
    grid = scores.reshape(len(scores), *source, 1)
    if config.interpolation == "nearest":
        places = [jnp.arange(t) * s // t for s, t in zip(source, target, strict=True)]
        resized = grid[:, places[0]][:, :, places[1]]
    else:
        resized = resize_grid(grid, *target, config.interpolation)
    return resized.reshape(len(scores), -1)


def choose(config: PruningConfig, scores: Float[Array, "b n"]) -> Int[Array, "b k"]:
    """S: the places of the highest scores, in their order on the grid. Of equal ones the first."""
    _, places = jax.lax.top_k(jax.lax.stop_gradient(scores), config.num_kept(scores.shape[1]))
    return jnp.sort(places, axis=1)


@jax.custom_vjp
def take(tokens: Float[Array, "b n *rest"], places: Int[Array, "b k"]) -> Float[Array, "b k *rest"]:
    """Args: places: as `choose` gives them, each at most once and rising. The gradient of a choice is then a choice,
    too, and no sum: a TPU sorts and adds row by row for the latter.
    """
    return jnp.take_along_axis(tokens, _beside(places, tokens.ndim), axis=1)


def _take_forward(tokens: Array, places: Array) -> tuple[Array, tuple[Array, Array]]:
    is_chosen = jnp.any(places[:, None] == jnp.arange(tokens.shape[1])[:, None], axis=-1)
    return take(tokens, places), (is_chosen, jnp.maximum(jnp.cumsum(is_chosen, axis=1) - 1, 0))


def _take_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, None]:
    is_chosen, ranks = (_beside(array, gradient.ndim) for array in saved)
    return jnp.where(is_chosen, jnp.take_along_axis(gradient, ranks, axis=1), 0), None


take.defvjp(_take_forward, _take_backward)


def _beside(array: Array, ndim: int) -> Array:
    """With axes of length 1 behind it, up to `ndim`."""
    return array.reshape(*array.shape, *(1,) * (ndim - 2))
