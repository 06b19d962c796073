"""Colour augmentation on the device: brightness, contrast, saturation, hue.

Axes: b batch, w window, y x pixels. One draw a sample and camera, the same for every frame of a window.
Keys come from (seed, step, row): the same sample at the same step is augmented alike after a resume.
Source: EF-VLA Table 7 for the ranges. Order of operations as in TensorFlow's image ops.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from vla_jax.types import Observation

_LUMA = (0.2989, 0.587, 0.114)
_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorJitterConfig:
    brightness: float = 0.2
    """Added, in units of full scale, uniform in +-."""
    contrast: tuple[float, float] = (0.8, 1.2)
    saturation: tuple[float, float] = (0.8, 1.2)
    hue: float = 0.1
    """Turn of the colour wheel, uniform in +-; 1 is a full turn."""
    slots: tuple[str, ...] = ("primary",)


def jitter(config: ColorJitterConfig, observation: Observation, key: Key[Array, ""]) -> Observation:
    """Augments the configured camera slots; padding and missing cameras stay as they are."""
    images = dict(observation.images)
    for index, slot in enumerate(sorted(set(config.slots) & images.keys())):
        pictures = images[slot]
        keys = jax.random.split(jax.random.fold_in(key, index), pictures.shape[0])
        jittered = jax.vmap(lambda picture, row_key: _jitter_window(config, picture, row_key))(pictures, keys)
        keep = observation.image_masks[slot][..., None, None, None]
        images[slot] = jnp.where(keep, jittered, pictures)
    return observation.replace(images=images)


def _jitter_window(
    config: ColorJitterConfig, pictures: UInt8[Array, "w y x 3"], key: Key[Array, ""]
) -> UInt8[Array, "w y x 3"]:
    brightness, contrast, saturation, hue = jax.random.split(key, 4)
    x = pictures.astype(jnp.float32) / 255.0
    x = x + jax.random.uniform(brightness, minval=-config.brightness, maxval=config.brightness)
    mean = x.mean(axis=(-3, -2), keepdims=True)
    x = mean + (x - mean) * jax.random.uniform(contrast, minval=config.contrast[0], maxval=config.contrast[1])
    grey = (x * jnp.asarray(_LUMA)).sum(-1, keepdims=True)
    x = grey + (x - grey) * jax.random.uniform(saturation, minval=config.saturation[0], maxval=config.saturation[1])
    x = _turn_hue(x, jax.random.uniform(hue, minval=-config.hue, maxval=config.hue))
    return jnp.round(jnp.clip(x, 0.0, 1.0) * 255.0).astype(jnp.uint8)


def _turn_hue(x: Float[Array, "w y x 3"], turn: Float[Array, ""]) -> Float[Array, "w y x 3"]:
    """Rotates chroma in YIQ space: one 3x3 product a pixel where HSV would branch."""
    angle = 2 * jnp.pi * turn
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    zero, one = jnp.zeros(()), jnp.ones(())
    rotation = jnp.stack([jnp.stack([one, zero, zero]), jnp.stack([zero, cos, -sin]), jnp.stack([zero, sin, cos])])
    to_yiq = jnp.asarray(_TO_YIQ)
    matrix = jnp.linalg.inv(to_yiq) @ rotation @ to_yiq
    return jnp.einsum("wyxc,dc->wyxd", x, matrix, precision="highest")
