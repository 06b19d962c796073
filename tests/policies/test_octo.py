"""Octo: published sizes, blocks of steps, read-outs that nothing reads, and what is not there is not read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.policies.twin import Twin
from vla_jax.parameters import abstract, matching
from vla_jax.policies import octo
from vla_jax.types import InputError


@pytest.fixture(scope="module")
def twin(action_space, make_batch):
    return Twin(octo.tiny(octo.octo_small(action_space)), make_batch)


@pytest.fixture(scope="module")
def readouts(twin):
    return jax.jit(lambda parameters, observation: twin.policy(parameters).context(observation, key=None).queries)


@pytest.mark.parametrize(("name", "millions"), [("octo_small", 27), ("octo_base", 93)])
def test_what_trains_has_the_published_size(action_space, name, millions):
    """Octo counts without its frozen text encoder, for which CLIP's stands here."""
    config = octo.PRESETS[name](dataclasses.replace(action_space, horizon=4, dimensions=action_space.dimensions[:7]))
    shapes = abstract(lambda: config.build(nnx.Rngs(0))).shapes()
    frozen = matching(shapes, config.frozen_paths())
    trained = sum(np.prod(shape.shape) for path, shape in shapes.items() if path not in frozen)
    assert trained / 1e6 == pytest.approx(millions, rel=0.005)
    assert {path.split("/")[0] for path in frozen} == {"clip"}


def test_the_future_is_hidden(twin, readouts):
    observation = twin.batch.observation
    whole = jnp.ones_like(observation.timestep_mask)
    observation = dataclasses.replace(
        observation, timestep_mask=whole, image_masks=dict.fromkeys(observation.images, whole)
    )
    images = {slot: images.at[:, -1].set(200) for slot, images in observation.images.items()}
    before = readouts(twin.parameters, observation)
    after = readouts(twin.parameters, dataclasses.replace(observation, images=images))
    np.testing.assert_array_equal(before[:, 0], after[:, 0])
    assert np.abs(before[:, 1] - after[:, 1]).max() > 1e-3


def test_nothing_but_read_outs_reads_a_read_out(twin):
    """Other embeddings of them leave every other token as it was."""

    @jax.jit
    def outputs(parameters, observation):
        policy = twin.policy(parameters)
        return policy.trunk(policy.sequence(observation), mask=policy.mask(observation))

    observation = twin.batch.observation
    before = outputs(twin.parameters, observation)
    after = outputs(twin.parameters | {"readouts": twin.parameters["readouts"] + 1.0}, observation)
    moved = (np.abs(after - before).max(axis=(0, 2)) > 0).nonzero()[0]
    step = 16 + 9 + 16 + 1
    assert moved.tolist() == [16 + step - 1, 16 + 2 * step - 1]


def test_padding_changes_neither_loss_nor_actions(twin):
    batch, observation = twin.batch, twin.batch.observation
    batch = dataclasses.replace(batch, action_mask=batch.action_mask.at[0, :, 1].set(False))
    images = {
        slot: jnp.where(observation.image_masks[slot][..., None, None, None], images, 99).astype(jnp.uint8)
        for slot, images in observation.images.items()
    }
    words = jnp.where(observation.instruction_mask, observation.instruction_tokens, 17)
    changed = dataclasses.replace(observation, images=images, instruction_tokens=words)
    other = dataclasses.replace(batch, observation=changed, action=jnp.where(batch.action_mask, batch.action, 9.0))
    assert twin.loss(twin.parameters, other) == twin.loss(twin.parameters, batch)
    np.testing.assert_array_equal(twin.act(twin.parameters, changed), twin.act(twin.parameters, observation))


def test_actions_are_those_of_the_last_valid_step_and_depend_on_pictures_and_words(twin, readouts):
    observation = twin.batch.observation
    before = twin.act(twin.parameters, observation)
    sample = jax.jit(lambda parameters, observation: twin.policy(parameters).stages(observation)["actions"])
    chunks = sample(twin.parameters, observation)
    expected = jnp.stack([chunks[0, 1], chunks[1, 1], chunks[2, 0]])
    np.testing.assert_allclose(before, expected, atol=1e-5)
    base = readouts(twin.parameters, observation)
    changes = [{"images": observation.images | {s: jnp.zeros_like(observation.images[s])}} for s in observation.images]
    for change in (*changes, {"instruction_tokens": observation.instruction_tokens[::-1]}):
        after = readouts(twin.parameters, dataclasses.replace(observation, **change))
        assert np.abs(after - base).max() > 1e-3, list(change)


def test_noise_follows_the_key(twin):
    act = jax.jit(lambda parameters, observation, key: twin.policy(parameters).act(observation, key=key))
    one, two = (act(twin.parameters, twin.batch.observation, jax.random.key(seed)) for seed in (1, 2))
    assert np.abs(one - two).max() > 1e-3
    np.testing.assert_array_equal(one, act(twin.parameters, twin.batch.observation, jax.random.key(1)))


def test_impossible_configs_are_refused(twin):
    for change, message in (
        ({"cameras": ()}, "cameras"),
        ({"image_sizes": (32,)}, "one for each"),
        ({"image_sizes": (32, 20)}, "multiples"),
        ({"window": 5}, "max_window=4"),
        ({"clip": dataclasses.replace(twin.config.clip, text=None)}, "text half alone"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(twin.config, **change)
