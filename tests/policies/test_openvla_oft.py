"""OpenVLA-OFT: slots see one another, padding is seen by nobody, FiLM starts as nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.policies.twin import Twin
from vla_jax.language.continuation import continuation
from vla_jax.parameters import abstract, matching
from vla_jax.policies import openvla_oft
from vla_jax.types import InputError


@pytest.fixture(scope="module", params=["openvla_oft", "openvla_oft_film"])
def twin(request, action_space, make_batch):
    return Twin(openvla_oft.tiny(openvla_oft.PRESETS[request.param](action_space)), make_batch)


def test_the_full_sizes(action_space):
    """OpenVLA's 7541 M; a head on 7 numbers of 4096 each, the proprio's projector, FiLM on 23 and 26 blocks."""
    space = dataclasses.replace(
        action_space, horizon=8, dimensions=action_space.dimensions[:7], proprio=action_space.proprio[:8]
    )
    head = 2 * 7 * 4096 + (7 * 4096 + 1) * 4096 + 2 * (2 * 4096 + 4097 * 4096) + 2 * 4096 + 4097 * 7
    proprio, film = 9 * 4096 + 4097 * 4096, 2 * 4097 * (23 * 1024 + 26 * 1152)
    for name, own in (("openvla_oft", head + proprio), ("openvla_oft_film", head + proprio + film)):
        config = openvla_oft.PRESETS[name](space)
        shapes = abstract(lambda config=config: config.build(nnx.Rngs(0))).shapes()
        sizes = {path: np.prod(shape.shape, dtype=np.int64) for path, shape in shapes.items()}
        assert sum(size for path, size in sizes.items() if not path.startswith("vlm/")) == own
        assert sum(sizes.values()) - own == 7_541_237_184
        assert not {path for path in matching(shapes, config.frozen_paths()) if not path.startswith("vlm/")}


def test_padding_changes_neither_loss_nor_actions(twin):
    batch, observation = twin.batch, twin.batch.observation
    batch = dataclasses.replace(batch, action_mask=batch.action_mask.at[1, :, 1].set(False))
    images = {
        slot: jnp.where(observation.image_masks[slot][..., None, None, None], images, 99).astype(jnp.uint8)
        for slot, images in observation.images.items()
    }
    words = jnp.where(observation.instruction_mask, observation.instruction_tokens, 17)
    changed = dataclasses.replace(observation, images=images, instruction_tokens=words)
    other = dataclasses.replace(batch, observation=changed, action=jnp.where(batch.action_mask, batch.action, 9.0))
    assert twin.loss(twin.parameters, other) == twin.loss(twin.parameters, batch)
    np.testing.assert_array_equal(twin.act(twin.parameters, changed), twin.act(twin.parameters, observation))


def test_actions_depend_on_each_picture_the_words_and_proprio(twin):
    observation = twin.batch.observation
    before = twin.act(twin.parameters, observation)
    changes = [
        {"images": observation.images | {slot: jnp.zeros_like(observation.images[slot])}}
        for slot in ("primary", "wrist")
    ]
    changes += [{"instruction_tokens": observation.instruction_tokens[::-1]}, {"proprio": observation.proprio + 1.0}]
    for change in changes:
        after = twin.act(twin.parameters, dataclasses.replace(observation, **change))
        assert np.abs(after - before).max() > 1e-4, list(change)


def test_slots_see_one_another_and_the_prompt_sees_no_padding(twin):
    @jax.jit
    def mask(parameters, observation):
        policy = twin.policy(parameters)
        prompt = policy.prompt(observation)
        end = policy.end(len(observation.timestep_mask))
        return continuation(
            policy.vlm.language, prompt, jnp.repeat(end, policy.num_slots + 1, axis=1), "all"
        ).mask.dense(), prompt.valid

    seen, valid = mask(twin.parameters, twin.batch.observation)
    length, num_slots = valid.shape[1], 30
    assert seen[:, length : length + num_slots, length : length + num_slots].all()
    off_diagonal = ~np.eye(length, dtype=bool)
    np.testing.assert_array_equal(
        seen[:, :length, :length] & off_diagonal, valid[:, None] & off_diagonal & np.ones((length, 1), bool)
    )
    assert not valid.all()


def test_a_new_film_changes_nothing_and_then_tells_the_pictures_what_is_wanted(action_space, make_batch):
    filmed = Twin(openvla_oft.tiny(openvla_oft.openvla_oft_film(action_space)), make_batch)
    plain = Twin(openvla_oft.tiny(openvla_oft.openvla_oft(action_space)), make_batch)
    observation = filmed.batch.observation
    new = {
        path: np.zeros_like(value) if path.startswith("film/") else value for path, value in filmed.parameters.items()
    }
    shared = {path: value for path, value in new.items() if not path.startswith("film/")}
    assert shared.keys() == plain.parameters.keys()
    np.testing.assert_allclose(filmed.act(new, observation), plain.act(shared, observation), atol=1e-6)
    tokens = jax.jit(lambda parameters, observation: filmed.policy(parameters).picture_tokens(observation, "primary"))
    told = dataclasses.replace(observation, instruction_tokens=observation.instruction_tokens[::-1])
    assert np.abs(tokens(filmed.parameters, told) - tokens(filmed.parameters, observation)).max() > 1e-3
    np.testing.assert_array_equal(tokens(new, told), tokens(new, observation))


def test_cameras_that_repeat_are_refused(action_space):
    with pytest.raises(InputError, match="cameras"):
        dataclasses.replace(openvla_oft.openvla_oft(action_space), cameras=("primary", "primary"))
