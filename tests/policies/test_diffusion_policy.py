"""Diffusion Policy: published sizes, what its condition holds, and what is not there is not read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.policies.twin import Twin
from vla_jax.encoders.clip import clip_tiny
from vla_jax.encoders.resnet import spatial_softmax
from vla_jax.parameters import abstract, matching
from vla_jax.policies import diffusion_policy
from vla_jax.types import InputError


@pytest.fixture(scope="module", params=["diffusion_policy", "diffusion_policy_text"])
def twin(request, action_space, make_batch):
    config = diffusion_policy.tiny(diffusion_policy.PRESETS[request.param](action_space))
    return Twin(config, make_batch)


@pytest.fixture(scope="module")
def condition(twin):
    return jax.jit(lambda parameters, observation: twin.policy(parameters).context(observation).queries[:, 0])


def test_sizes_are_the_published_ones(action_space):
    """256 M of the U-Net and 22 M of two ResNets (table 9 of the paper, for robots), with a condition like theirs."""
    space = dataclasses.replace(action_space, horizon=16)
    config = diffusion_policy.diffusion_policy(space)
    shapes = abstract(lambda: config.build(nnx.Rngs(0))).shapes()
    parts = {"head": 0, "resnets": 0}
    for path, shape in shapes.items():
        parts[path.split("/")[0]] += np.prod(shape.shape)
    assert parts["head"] / 1e6 == pytest.approx(256, rel=0.005)
    assert parts["resnets"] / 1e6 == pytest.approx(22.4, rel=0.005)
    assert config.condition_width == 2 * (2 * 64 + 10)


def test_only_the_one_with_words_reads_them(twin, condition):
    observation = twin.batch.observation
    told = dataclasses.replace(observation, instruction_tokens=observation.instruction_tokens[::-1])
    change = np.abs(condition(twin.parameters, told) - condition(twin.parameters, observation)).max()
    assert (change > 1e-3) == (twin.config.clip is not None)
    frozen = matching(twin.parameters, twin.config.frozen_paths())
    assert {path.split("/")[0] for path in frozen} == (set() if twin.config.clip is None else {"clip"})


def test_what_is_not_there_is_zero_in_the_condition(twin, condition):
    observation = twin.batch.observation
    steps = np.asarray(condition(twin.parameters, observation)).reshape(3, 2, -1)
    width = twin.config.resnet.out_width
    for index, slot in enumerate(twin.config.cameras):
        feature = steps[..., index * width : (index + 1) * width]
        np.testing.assert_array_equal((feature != 0).any(axis=-1), observation.image_masks[slot])
    np.testing.assert_array_equal((steps[..., 2 * width :] != 0).any(axis=-1), observation.timestep_mask)


def test_padding_changes_neither_loss_nor_actions(twin):
    batch, observation = twin.batch, twin.batch.observation
    batch = dataclasses.replace(batch, action_mask=batch.action_mask.at[0, :, 1].set(False))
    images = {
        slot: jnp.where(observation.image_masks[slot][..., None, None, None], images, 99).astype(jnp.uint8)
        for slot, images in observation.images.items()
    }
    words = jnp.where(observation.instruction_mask, observation.instruction_tokens, 17)
    proprio = jnp.where(observation.timestep_mask[..., None], observation.proprio, 7.0)
    changed = dataclasses.replace(observation, images=images, instruction_tokens=words, proprio=proprio)
    other = dataclasses.replace(batch, observation=changed, action=jnp.where(batch.action_mask, batch.action, 9.0))
    assert twin.loss(twin.parameters, other) == twin.loss(twin.parameters, batch)
    np.testing.assert_array_equal(twin.act(twin.parameters, changed), twin.act(twin.parameters, observation))


def test_a_shorter_window_is_one_that_is_padded_on_the_left(twin, condition):
    observation = twin.batch.observation
    last = jax.tree.map(lambda leaf: leaf[:, 1:] if leaf.ndim > 2 or leaf.shape[1] == 2 else leaf, observation)
    last = dataclasses.replace(
        last, instruction_tokens=observation.instruction_tokens, instruction_mask=observation.instruction_mask
    )
    padded = observation.timestep_mask.at[:, 0].set(False)
    masks = {slot: mask & padded for slot, mask in observation.image_masks.items()}
    padded = dataclasses.replace(observation, timestep_mask=padded, image_masks=masks)
    np.testing.assert_allclose(condition(twin.parameters, last), condition(twin.parameters, padded), atol=1e-5)


def test_the_expected_place_of_a_peak_is_where_it_is():
    maps = jnp.full((1, 3, 5, 2), -20.0).at[0, 0, 4, 0].set(20.0).at[0, 1, 2, 1].set(20.0)
    np.testing.assert_allclose(spatial_softmax(maps)[0], [[1.0, -1.0], [0.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(spatial_softmax(jnp.zeros((1, 4, 6, 1)))[0, 0], [0.0, 0.0], atol=1e-6)


def test_impossible_configs_are_refused(action_space):
    config = diffusion_policy.diffusion_policy(action_space)
    for change, message in (
        ({"cameras": ()}, "cameras"),
        ({"window": 0}, "window=0"),
        ({"clip": clip_tiny()}, "text half alone"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(config, **change)
    for sizes, message in (({"widths": (8, 12)}, "as many of each"), ({"group_width": 48}, "group_width=48")):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(config.resnet, **sizes)
