"""The shapes of a batch, from what a policy says that it reads: for whoever traces a step without data.

Axes: as in `vla_jax/types.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from vla_jax.types import Batch, DataRequirements, Observation


def batch_shapes(needs: DataRequirements, batch_size: int) -> Batch:
    """Every leaf is a `jax.ShapeDtypeStruct`, of the shape and type that the data pipeline gives."""
    b, w, space = batch_size, needs.window, needs.action_space
    chunk = (b, w, space.horizon, space.action_width)
    extras: dict[str, Any] = {}
    if needs.coarse is not None:
        coarse = (b, w, needs.coarse.horizon, space.action_width)
        extras |= {"coarse_action": _struct(coarse, jnp.float32), "coarse_action_mask": _struct(coarse, jnp.bool)}
    if needs.pair_offset is not None:
        extras |= {"later_images": _pictures(needs, b, w), "later_masks": _masks(needs, b, w)}
    if needs.boxes is not None:
        extras["target_box"] = _struct((b, w), jnp.int32)
    return Batch(
        observation=observation_shapes(needs, batch_size),
        action=_struct(chunk, jnp.float32),
        action_mask=_struct(chunk, jnp.bool),
        sample_ids=_struct((b, 3), jnp.int32),
        sample_index=_struct((b,), jnp.uint32),
        **extras,
    )


def observation_shapes(needs: DataRequirements, batch_size: int) -> Observation:
    b, w = batch_size, needs.window
    extras: dict[str, Any] = {}
    if needs.goals:
        sizes = {camera.slot: (camera.height, camera.width) for camera in needs.cameras}
        extras["goal_images"] = {slot: _struct((b, *sizes[slot], 3), jnp.uint8) for slot in needs.goals}
        extras["goal_masks"] = {slot: _struct((b,), jnp.bool) for slot in needs.goals}
    if needs.boxes is not None:
        extras["boxes"] = _struct((b, w, needs.boxes.count, 4), jnp.float32)
        extras["box_masks"] = _struct((b, w, needs.boxes.count), jnp.bool)
    if needs.depths:
        extras["depths"] = {d.slot: _struct((b, w, d.height, d.width), jnp.float32) for d in needs.depths}
        extras["depth_masks"] = {d.slot: _struct((b, w), jnp.bool) for d in needs.depths}
    return Observation(
        images=_pictures(needs, b, w),
        image_masks=_masks(needs, b, w),
        proprio=_struct((b, w, needs.action_space.proprio_width), jnp.float32),
        timestep_mask=_struct((b, w), jnp.bool),
        instruction_tokens=_struct((b, needs.text_length), jnp.int32),
        instruction_mask=_struct((b, needs.text_length), jnp.bool),
        **extras,
    )


def _pictures(needs: DataRequirements, b: int, w: int) -> dict[str, Any]:
    return {camera.slot: _struct((b, w, camera.height, camera.width, 3), jnp.uint8) for camera in needs.cameras}


def _masks(needs: DataRequirements, b: int, w: int) -> dict[str, Any]:
    return {camera.slot: _struct((b, w), jnp.bool) for camera in needs.cameras}


def _struct(shape: tuple[int, ...], dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)
