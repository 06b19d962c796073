"""OpenVLA: teacher forcing says what decoding does, the cache changes nothing, and what is not there is not read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.policies.twin import Twin
from vla_jax.language.action_tokens import ActionTokens
from vla_jax.language.continuation import continuation, outputs_before
from vla_jax.language.generation import prefill
from vla_jax.nn.cross_entropy import cross_entropy
from vla_jax.parameters import abstract, matching
from vla_jax.policies import openvla
from vla_jax.types import ActionSpace, Dimension, InputError


@pytest.fixture(scope="module")
def space():
    return ActionSpace(
        form="toy", horizon=2, dimensions=tuple(Dimension(name=f"a{i}", unit="m") for i in range(3)), proprio=()
    )


@pytest.fixture(scope="module")
def twin(space, make_batch):
    return Twin(openvla.tiny(openvla.openvla(space)), make_batch)


def test_the_full_size_has_the_published_parameters(space):
    config = openvla.openvla(space)
    shapes = abstract(lambda: config.build(nnx.Rngs(0))).shapes()
    assert sum(np.prod(shape.shape, dtype=np.int64) for shape in shapes.values()) / 1e6 == pytest.approx(7541, rel=1e-4)
    frozen = matching(shapes, config.frozen_paths())
    assert {path.split("/")[1] for path in frozen} == {"vision"}
    frozen = matching(shapes, dataclasses.replace(config, train_vision=False).frozen_paths())
    assert frozen == {path for path in shapes if path.startswith("vlm/vision/")}


def test_the_prompt_is_openvla_s(space):
    prompt = openvla.openvla(space).prompt()
    assert prompt.text("Put the Spoon down") == "In: What action should the robot take to put the spoon down?\nOut:"
    assert prompt.last_token == "▁"


def test_the_loss_is_that_of_reading_one_token_after_another(twin):
    """By the cache, as decoding does, with the targets put in for what was written."""

    @jax.jit
    def step_by_step(parameters, batch):
        policy = twin.policy(parameters)
        decoder, prompt = policy.vlm.language, policy.prompt(batch.observation)
        ids, valid = policy.bins.targets(batch.action, batch.action_mask)
        room = ids.shape[1] - 1
        prefix = prefill(decoder, prompt, room)
        start, slots = prompt.valid.shape[1], jnp.arange(prompt.valid.shape[1] + room)
        seen = jnp.pad(prompt.valid, ((0, 0), (0, room)))
        cache, logits = prefix.cache, [decoder.logits(prefix.last)]
        for index in range(room):
            mask = (seen | ((slots >= start) & (slots <= start + index)))[:, None]
            rotation = decoder.rotation((prefix.next_position + index)[:, None])
            given = decoder.embed(ids[:, index : index + 1])
            x, cache = decoder.step(given, cache, slot=start + index, mask=mask, rotation=rotation)
            logits.append(decoder.logits(x[:, 0]))
        surprise = cross_entropy(jnp.stack(logits, axis=1), ids)
        return jnp.where(valid, surprise, 0).sum() / valid.sum()

    found = twin.loss(twin.parameters, twin.batch)
    np.testing.assert_allclose(found, step_by_step(twin.parameters, twin.batch), rtol=1e-5)


def test_greedy_decoding_with_the_cache_is_that_without(twin):
    @jax.jit
    def without(parameters, observation):
        policy = twin.policy(parameters)
        decoder, prompt = policy.vlm.language, policy.prompt(observation)
        ids = jnp.zeros((len(observation.timestep_mask), 0), jnp.int32)
        for count in range(1, policy.bins.num_tokens + 1):
            given = continuation(decoder, prompt, decoder.embed(ids))
            hidden = decoder.hidden(given.embeddings, mask=given.mask, rotation=given.rotation).tokens
            last = outputs_before(prompt, hidden, count)[:, -1]
            ids = jnp.concatenate([ids, jnp.argmax(decoder.logits(last), axis=-1)[:, None]], axis=1)
        return policy.bins.actions(ids)[:, 0]

    observation = twin.batch.observation
    np.testing.assert_array_equal(twin.act(twin.parameters, observation), without(twin.parameters, observation))


def test_padding_changes_neither_loss_nor_actions(twin):
    batch, observation = twin.batch, twin.batch.observation
    mask = batch.action_mask.at[1, :, 1].set(False)
    batch = dataclasses.replace(batch, action_mask=mask)
    masks = observation.image_masks["primary"][..., None, None, None]
    changed = dataclasses.replace(
        observation,
        images={"primary": jnp.where(masks, observation.images["primary"], 99).astype(jnp.uint8)},
        instruction_tokens=jnp.where(observation.instruction_mask, observation.instruction_tokens, 17),
    )
    other = dataclasses.replace(batch, observation=changed, action=jnp.where(mask, batch.action, -0.7))
    assert twin.loss(twin.parameters, other) == twin.loss(twin.parameters, batch)
    np.testing.assert_array_equal(twin.act(twin.parameters, changed), twin.act(twin.parameters, observation))


def test_the_loss_depends_on_pictures_words_and_targets(twin):
    batch, observation = twin.batch, twin.batch.observation
    before = twin.loss(twin.parameters, batch)
    black = {slot: jnp.zeros_like(images) for slot, images in observation.images.items()}
    words = observation.instruction_tokens[::-1]
    for other in (
        dataclasses.replace(batch, observation=dataclasses.replace(observation, images=black)),
        dataclasses.replace(batch, observation=dataclasses.replace(observation, instruction_tokens=words)),
        dataclasses.replace(batch, action=-batch.action),
    ):
        assert np.abs(twin.loss(twin.parameters, other) - before) > 1e-4


def test_what_is_learnt_by_heart_is_what_is_written(twin):
    """Trained in teacher forcing, asked without: the actions come back to half a bin."""
    config, batch = twin.config, twin.batch
    action = jnp.clip(0.5 * batch.action, -0.95, 0.95)
    batch = dataclasses.replace(batch, action=action)
    frozen = matching(twin.parameters, config.frozen_paths())
    drawn = {path: 0.5 * value if path.endswith("kernel") else value for path, value in twin.parameters.items()}
    fixed = {path: value for path, value in drawn.items() if path in frozen}
    optimizer = optax.adam(3e-3)

    @jax.jit
    def trained(trainable):
        def step(carry, _):
            loss = lambda p: twin.policy(p | fixed).loss(batch, key=None).total  # noqa: E731
            value, gradient = jax.value_and_grad(loss)(carry[0])
            updates, state = optimizer.update(gradient, carry[1])
            return (optax.apply_updates(carry[0], updates), state), value

        (trainable, _), losses = jax.lax.scan(step, (trainable, optimizer.init(trainable)), length=150)
        return trainable, losses

    trainable, losses = trained({path: value for path, value in drawn.items() if path not in frozen})
    assert losses[-1] < 0.1 < losses[0]
    written = twin.act(trainable | fixed, batch.observation)
    assert np.abs(written - action[:, 0]).max() < 1 / 255 + 1e-6


def test_an_action_vocabulary_beyond_the_table_is_refused(twin):
    for size in (800, 256):
        with pytest.raises(InputError, match=f"vocab_size={size}"):
            dataclasses.replace(twin.config, action_tokens=ActionTokens(vocab_size=size))
