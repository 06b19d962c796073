"""Automatic mask generation: a grid of points asks SAM for masks of everything, and each mask becomes a few numbers.

Axes: b batch, y x pixels, n proposals (points row by row, three masks each), k masks, d width.
Source: Kirillov et al. 2023, section 5 and appendix B, without crops. Masks never leave the device: at the original
size three a point are gigabytes a picture.
Differs: a box's right and lower edge lie past its last pixel; in published code they are that pixel.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8
from PIL import Image

from vla_jax.encoders.sam import Prompts, Sam
from vla_jax.nn.interpolation import weights
from vla_jax.types import TokenGrid


class Proposals(NamedTuple):
    boxes: Int[Array, "*b n 4"]
    """Left, upper, right, lower in pixels of the original picture; zeros where the mask is empty."""
    quality: Float[Array, "*b n"]
    """Predicted intersection over union."""
    stability: Float[Array, "*b n"]
    """Intersection over union of the masks at a higher and a lower threshold."""
    areas: Int[Array, "*b n"]
    """Pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskGeneration:
    points: int = 32
    """Along each side of the picture."""
    stability_offset: float = 1.0
    """What thresholds of a mask's logits are moved by, up and down from zero."""
    points_at_once: int = 64

    def __call__(self, sam: Sam, images: UInt8[Array, "b y x 3"], original: tuple[int, int]) -> Proposals:
        """Args: images: from `fit`. original: height and width before it; boxes are in its pixels."""
        places = jnp.asarray(point_grid(self.points) * images.shape[2:0:-1], jnp.float32)
        low, shown = 4 * sam.config.image_encoder.vit.grid_size, images.shape[1:3]
        size = sam.config.image_encoder.vit.image_size
        axes = [enlargement(low, size, *sizes) for sizes in zip(shown, original, strict=True)]

        def of_picture(image: TokenGrid) -> Proposals:
            image = jax.tree.map(lambda a: a[None], image)

            def of_point(place: Float[Array, "2"]) -> Proposals:
                masks = sam.masks(image, Prompts(points=place[None, None, None]))
                logits = jnp.einsum("Yy,kyx,Xx->kYX", axes[0], masks.logits[0, 0], axes[1])
                return Proposals(
                    mask_boxes(logits > 0),
                    masks.quality[0, 0],
                    stability(logits, self.stability_offset),
                    jnp.sum(logits > 0, axis=(-2, -1)),
                )

            found = jax.lax.map(of_point, places, batch_size=min(self.points_at_once, len(places)))
            return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found)

        return jax.lax.map(of_picture, sam.encode(images))


def fit(picture: UInt8[np.ndarray, "y x 3"], size: int) -> UInt8[np.ndarray, "height width 3"]:
    """As SAM reads it: the longer side `size` pixels, Pillow's bilinear filter."""
    height, width = (int(side * (size / max(picture.shape[:2])) + 0.5) for side in picture.shape[:2])
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def point_grid(side: int) -> Float[np.ndarray, "n 2"]:
    """x, y of the centres of side x side cells, row by row, in shares of the picture."""
    centres = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)


def enlargement(low: int, size: int, shown: int, original: int) -> Float[np.ndarray, "original low"]:
    """Of one axis of a mask: to the encoder's size, without its padding, and from there to the original picture."""
    return weights(shown, original, "bilinear") @ weights(low, size, "bilinear")[:shown]


def mask_boxes(masks: Bool[Array, "*k y x"]) -> Int[Array, "*k 4"]:
    """Left, upper, right, lower; zeros of an empty mask."""
    edges = []
    for axis in (-2, -1):
        hit = jnp.any(masks, axis=axis)
        last = hit.shape[-1] - jnp.argmax(hit[..., ::-1], axis=-1)
        edges.append((jnp.argmax(hit, axis=-1), last))
    (left, right), (upper, lower) = edges
    boxes = jnp.stack([left, upper, right, lower], axis=-1)
    return jnp.where(jnp.any(masks, axis=(-2, -1))[..., None], boxes, 0)


def stability(logits: Float[Array, "*k y x"], offset: float) -> Float[Array, "*k"]:
    """0 where both masks are empty."""
    inner, outer = (jnp.sum(logits > threshold, axis=(-2, -1)) for threshold in (offset, -offset))
    return inner / jnp.maximum(outer, 1)
