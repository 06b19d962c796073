"""A small random batch that any EF-VLA tiny twin can eat, with every kind of padding in it."""

import jax
import jax.numpy as jnp
import pytest

from vla_jax.types import ActionSpace, Batch, DataRequirements, Dimension, Observation


@pytest.fixture(scope="session")
def action_space() -> ActionSpace:
    return ActionSpace(
        form="relative_pose",
        horizon=3,
        dimensions=tuple(Dimension(name=f"a{i}", unit="") for i in range(10)),
        proprio=tuple(Dimension(name=f"p{i}", unit="") for i in range(10)),
    )


@pytest.fixture(scope="session")
def make_batch():
    def make(requirements: DataRequirements, *, size: int = 3, seed: int = 0) -> Batch:
        keys = iter(jax.random.split(jax.random.key(seed), 16))
        space, window = requirements.action_space, requirements.window
        timestep_mask = jnp.arange(window)[None] < jnp.array([window, 2, 1])[jnp.arange(size) % 3, None]
        images, masks = {}, {}
        for index, camera in enumerate(requirements.cameras):
            shape = (size, window, camera.height, camera.width, 3)
            present = timestep_mask & (jnp.arange(size) != index)[:, None]
            pictures = jax.random.randint(next(keys), shape, 0, 256).astype(jnp.uint8)
            images[camera.slot] = jnp.where(present[..., None, None, None], pictures, 0).astype(jnp.uint8)
            masks[camera.slot] = present
        text_mask = jnp.arange(requirements.text_length)[None] < jnp.array([5, 16, 9])[jnp.arange(size) % 3, None]
        shape = (size, window, space.horizon, space.action_width)
        observation = Observation(
            images=images,
            image_masks=masks,
            proprio=jax.random.normal(next(keys), (size, window, space.proprio_width)),
            timestep_mask=timestep_mask,
            instruction_tokens=jnp.where(text_mask, jax.random.randint(next(keys), text_mask.shape, 3, 512), 2),
            instruction_mask=text_mask,
        )
        return Batch(
            observation=observation,
            action=jax.random.normal(next(keys), shape),
            action_mask=jnp.broadcast_to(timestep_mask[..., None, None], shape),
            sample_ids=jnp.zeros((size, 3), jnp.int32),
        )

    return make
