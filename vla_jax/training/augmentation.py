"""Colour augmentation on the device: brightness, contrast, saturation, hue.

Axes: b batch, w window, y x pixels. One draw a sample and camera, the same for every frame of a window.
Keys come from (seed, step, row): the same sample at the same step is augmented alike after a resume.
Source: EF-VLA Table 7 for the ranges. Order of operations as in TensorFlow's image ops; hue turns chroma in YIQ
space, one 3x3 product a pixel where HSV would branch.

Integers throughout: rounding a float to uint8 would turn last-bit differences between meshes into whole levels.
So a picture comes out the same, bit for bit, on every mesh and accelerator.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt8

from vla_jax.types import Observation

_LEVEL = 64
"""Fixed point of a pixel: this many units a level."""
_ONE = 1024
"""Fixed point of a factor."""
_LUMA = (306, 601, 117)
"""Of ITU-R BT.601, in units of `_ONE`."""
_TURNS = 2048
"""Steps of a full hue turn."""


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
    return dataclasses.replace(observation, images=images)


def _jitter_window(
    config: ColorJitterConfig, pictures: UInt8[Array, "w y x 3"], key: Key[Array, ""]
) -> UInt8[Array, "w y x 3"]:
    brightness, contrast, saturation, hue = jax.random.split(key, 4)
    x = pictures.astype(jnp.int32) * _LEVEL
    shift = _draw(brightness, (-config.brightness, config.brightness), 255 * _LEVEL)
    x, mean = x + shift, _mean(pictures) + shift
    x = mean + _scaled(x - mean, _draw(contrast, config.contrast, _ONE))
    grey = _scaled(x, jnp.array(_LUMA)).sum(-1, keepdims=True)
    x = grey + _scaled(x - grey, _draw(saturation, config.saturation, _ONE))
    x = _turn_hue(config, x, hue)
    return jnp.clip((x + _LEVEL // 2) // _LEVEL, 0, 255).astype(jnp.uint8)


def _draw(key: Key[Array, ""], limits: tuple[float, float], unit: int) -> Int[Array, ""]:
    low, high = (round(limit * unit) for limit in limits)
    return jax.random.randint(key, (), low, high + 1)


def _scaled(x: Int[Array, "..."], factor: Int[Array, "..."]) -> Int[Array, "..."]:
    """Times a factor in units of `_ONE`, rounded."""
    return (x * factor + _ONE // 2) // _ONE


def _mean(pictures: UInt8[Array, "w y x 3"]) -> Int[Array, "w 1 1 3"]:
    """A frame's mean colour in fixed point; exact, and without overflow up to 2900 x 2900 pixels."""
    count = pictures.shape[-3] * pictures.shape[-2]
    total = pictures.astype(jnp.int32).sum(axis=(-3, -2), keepdims=True)
    return total // count * _LEVEL + total % count * _LEVEL // count


def _turn_hue(config: ColorJitterConfig, x: Int[Array, "w y x 3"], key: Key[Array, ""]) -> Int[Array, "w y x 3"]:
    furthest = round(config.hue * _TURNS)
    matrix = jnp.asarray(_hue_matrices(furthest))[jax.random.randint(key, (), 0, 2 * furthest + 1)]
    red, green, blue = (x[..., i : i + 1] * matrix[:, i] for i in range(3))
    return (red + green + blue + _ONE // 2) // _ONE


def _hue_matrices(furthest: int) -> np.ndarray:
    """RGB to RGB, int32[turn, 3, 3] in units of `_ONE`, for turns -furthest..furthest."""
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    angle = 2 * np.pi * np.arange(-furthest, furthest + 1) / _TURNS
    rotation = np.zeros((len(angle), 3, 3))
    rotation[:, 0, 0] = 1
    rotation[:, 1, 1] = rotation[:, 2, 2] = np.cos(angle)
    rotation[:, 2, 1], rotation[:, 1, 2] = np.sin(angle), -np.sin(angle)
    return np.round(np.linalg.inv(to_yiq) @ rotation @ to_yiq * _ONE).astype(np.int32)
