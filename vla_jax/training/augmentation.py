"""Colour augmentation on the device: brightness, contrast, saturation, hue, and whole cameras left out.

Axes: b batch, w window, y x pixels. One draw a sample and camera, the same for every frame of a window, for a second
picture of the camera at another size, and for its goal and later pictures. Keys come from (seed, global sample index):
the same sample is augmented alike whatever the mesh, the number of hosts, or a resume.

Each operation is torchvision's of the same name (`adjust_brightness`, `adjust_contrast`, `adjust_saturation`,
`adjust_hue`), clipped after each, within 1 % of full scale; they always come in this order. `shift` alone is
TensorFlow's `random_brightness`, for the ranges that Octo, OpenVLA and EF-VLA published with it. Their contrast, also
TensorFlow's, turns about the mean of each channel, ours about that of the grey picture.

Integers throughout: rounding a float to uint8 would turn last-bit differences between meshes into whole levels.
So a picture comes out the same, bit for bit, on every mesh and accelerator. Nothing is divided as integers, pixel by
pixel: a TPU has no such instruction, and what the compiler writes in its place was a sixth of all the code of a 5B
model's training step. Fixed points are powers of two, and `>>` rounds down as `//` does.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, UInt8, UInt32

from vla_jax.types import Batch, InputError, Observation

STREAM = 0x436F6C  # apart from every other use of the seed
_LEVEL_BITS = 6
_LEVEL = 1 << _LEVEL_BITS
"""Fixed point of a pixel: this many units a level."""
_FULL = 255 * _LEVEL
_ONE_BITS = 10
_ONE = 1 << _ONE_BITS
"""Fixed point of a factor."""
_LUMA = (306, 601, 117)
"""Of ITU-R BT.601, in units of `_ONE`."""
_SEXTANT_BITS = 12
_SEXTANT = 1 << _SEXTANT_BITS
"""Fixed point of a hue: this many units a sixth of the circle."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorJitterConfig:
    shift: float = 0.2
    """Added, in units of full scale, uniform in +-."""
    brightness: tuple[float, float] = (1.0, 1.0)
    """Limits of a factor; so are contrast and saturation."""
    contrast: tuple[float, float] = (0.8, 1.2)
    saturation: tuple[float, float] = (0.8, 1.2)
    hue: float = 0.1
    """Turn of the colour wheel, uniform in +-; 1 is a full turn."""
    slots: tuple[str, ...] = ("primary",)
    """Camera slots that are coloured."""
    dropout: float = 0.0
    """Probability of each camera to be left out of a sample (black, mask False). One always stays."""
    kept_slot: str | None = None
    """The camera that always stays; None: any, drawn evenly."""

    def __post_init__(self):
        for name in ("brightness", "contrast", "saturation"):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= 8:
                raise InputError(f"augmentation.{name}={(low, high)}: two rising factors from 0 to 8 are expected")
        if not 0 <= self.shift <= 1 or not 0 <= self.hue <= 0.5:
            raise InputError(f"augmentation: shift={self.shift} (0 to 1), hue={self.hue} (0 to 0.5) expected")
        if not 0 <= self.dropout <= 1:
            raise InputError(f"augmentation.dropout={self.dropout}: a probability from 0 to 1 is expected")


def augment(config: ColorJitterConfig, batch: Batch, *, seed: int, sources: dict[str, str] | None = None) -> Batch:
    """Args: sources: camera slot -> the slot that it is a second picture of (`CameraRequirement.source`); default:
    each is its own. Padding and missing cameras stay as they are.
    """
    assert batch.sample_index is not None, "augmentation needs Batch.sample_index"
    stream = jax.random.fold_in(jax.random.key(seed), STREAM)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(stream, batch.sample_index)
    colors = _Colors(config, sources or {}, keys)
    seen = batch.observation
    seen = dataclasses.replace(seen, images=colors(seen.images, seen.image_masks))
    if seen.goal_images is not None and seen.goal_masks is not None:
        seen = dataclasses.replace(seen, goal_images=colors(seen.goal_images, seen.goal_masks))
    if batch.later_images is not None and batch.later_masks is not None:
        batch = dataclasses.replace(batch, later_images=colors(batch.later_images, batch.later_masks))
    if config.dropout:
        seen = _without_cameras(config, seen, sources or {}, keys)
    return dataclasses.replace(batch, observation=seen)


@dataclasses.dataclass(frozen=True)
class _Colors:
    config: ColorJitterConfig
    sources: dict[str, str]
    keys: Key[Array, "b"]

    def __call__(self, images: dict[str, jax.Array], masks: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {slot: self._camera(slot, pictures, masks[slot]) for slot, pictures in images.items()}

    def _camera(self, slot: str, pictures: jax.Array, mask: jax.Array) -> jax.Array:
        source = self.sources.get(slot, slot)
        if source not in self.config.slots:
            return pictures
        number = self.config.slots.index(source)
        keys = jax.vmap(jax.random.fold_in, (0, None))(self.keys, number)
        jittered = jax.vmap(lambda picture, key: jitter(self.config, picture, key))(pictures, keys)
        return jnp.where(mask[..., None, None, None], jittered, pictures)


def jitter(config: ColorJitterConfig, pictures: UInt8[Array, "... y x 3"], key: Key[Array, ""]) -> jax.Array:
    """One draw for all the pictures."""
    shift, brightness, contrast, saturation, hue = jax.random.bits(key, (5,), jnp.uint32)
    x = pictures.astype(jnp.int32) * _LEVEL
    x = _clipped(x + _draw(shift, (-config.shift, config.shift), _FULL))
    x = _clipped(_scaled(x, _draw(brightness, config.brightness, _ONE)))
    mean = _mean(_grey(x))
    x = _clipped(mean + _scaled(x - mean, _draw(contrast, config.contrast, _ONE)))
    grey = _grey(x)
    x = _clipped(grey + _scaled(x - grey, _draw(saturation, config.saturation, _ONE)))
    if config.hue:
        x = _turn_hue(x, _draw(hue, (-config.hue, config.hue), 6 * _SEXTANT))
    return ((x + _LEVEL // 2) >> _LEVEL_BITS).astype(jnp.uint8)


def _draw(bits: UInt32[Array, ""], limits: tuple[float, float], unit: int) -> Int[Array, ""]:
    low, high = (round(limit * unit) for limit in limits)
    return low + (bits % jnp.uint32(high + 1 - low)).astype(jnp.int32)


def _clipped(x: Int[Array, "..."]) -> Int[Array, "..."]:
    return jnp.clip(x, 0, _FULL)


def _scaled(x: Int[Array, "..."], factor: Int[Array, "..."]) -> Int[Array, "..."]:
    """Times a factor in units of `_ONE`, rounded."""
    return (x * factor + _ONE // 2) >> _ONE_BITS


def _grey(x: Int[Array, "... y x 3"]) -> Int[Array, "... y x 1"]:
    return (x * jnp.array(_LUMA)).sum(-1, keepdims=True) >> _ONE_BITS


def _mean(grey: Int[Array, "... y x 1"]) -> Int[Array, "... 1 1 1"]:
    """Of a frame, row by row: without overflow up to 100,000 pixels a side, at most 1/32 of a level too low."""
    rows = grey.sum(axis=-2, keepdims=True) // grey.shape[-2]
    return rows.sum(axis=-3, keepdims=True) // grey.shape[-3]


def _turn_hue(x: Int[Array, "... y x 3"], turn: Int[Array, ""]) -> Int[Array, "... y x 3"]:
    """In HSV: value and chroma stay, the hue (0 red, 2 green, 4 blue, in sextants) moves on by `turn`."""
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    value = x.max(-1)
    chroma = value - x.min(-1)
    is_red, is_green = value == red, value == green
    difference = jnp.where(is_red, green - blue, jnp.where(is_green, blue - red, red - green))
    start = jnp.where(is_red, 0, jnp.where(is_green, 2 * _SEXTANT, 4 * _SEXTANT))
    hue = turn + start + _quotient(difference << _SEXTANT_BITS, jnp.maximum(chroma, 1))
    place = _on_circle(jnp.array([5, 3, 1]) * _SEXTANT + hue[..., None])
    missing = jnp.clip(jnp.minimum(place, 4 * _SEXTANT - place), 0, _SEXTANT)
    return value[..., None] - ((chroma[..., None] * missing + _SEXTANT // 2) >> _SEXTANT_BITS)


def _quotient(x: Int[Array, "..."], divisor: Int[Array, "..."]) -> Int[Array, "..."]:
    """x // divisor, where the quotient is at most `_SEXTANT` either way: floats come within one of it."""
    near = jnp.floor(x.astype(jnp.float32) / divisor.astype(jnp.float32)).astype(jnp.int32)
    rest = x - near * divisor
    return near + (rest >= divisor) - (rest < 0)


def _on_circle(hue: Int[Array, "..."]) -> Int[Array, "..."]:
    """Modulo a full turn, for hues from one turn below 0 up to three turns."""
    turn = 6 * _SEXTANT
    hue = jnp.where(hue < 0, hue + turn, hue)
    hue = jnp.where(hue >= turn, hue - turn, hue)
    return jnp.where(hue >= turn, hue - turn, hue)


def _without_cameras(
    config: ColorJitterConfig, observation: Observation, sources: dict[str, str], keys: Key[Array, "b"]
) -> Observation:
    """Octo's image dropout: each camera apart, but never the last one."""
    cameras = sorted({sources.get(slot, slot) for slot in observation.images})
    slots = {camera: [s for s in observation.images if sources.get(s, s) == camera] for camera in cameras}
    present = jnp.stack([observation.image_masks[slots[camera][0]].any(1) for camera in cameras], axis=1)
    number = len(config.slots)
    draws = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, number), (2, len(cameras))))(keys)
    lots = draws[:, 1]
    if config.kept_slot in cameras:
        lots = lots.at[:, cameras.index(config.kept_slot)].set(2.0)
    stays = jnp.argmax(jnp.where(present, lots, -1.0), axis=1)
    kept = (draws[:, 0] >= config.dropout) | (jnp.arange(len(cameras)) == stays[:, None])
    images, masks = dict(observation.images), dict(observation.image_masks)
    for column, camera in enumerate(cameras):
        for slot in slots[camera]:
            images[slot], masks[slot] = _kept(kept[:, column], images[slot], masks[slot])
    return dataclasses.replace(observation, images=images, image_masks=masks)


def _kept(kept: Bool[Array, "b"], pictures: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.where(kept[:, None, None, None, None], pictures, 0), mask & kept[:, None]
