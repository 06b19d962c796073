"""DFAF: what Eq. 8-10 and 16 of DFA-VLA promise, and every reading of what they leave open."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.fusion.dfaf import Dfaf, DfafConfig, GateConfig
from vla_jax.types import InputError

WIDTH, WORDS, TOKENS = 12, 5, 9


@pytest.fixture(scope="module")
def inputs():
    """Text, its mask, visual tokens, their mask; the second sample has padding of both kinds."""
    keys = jax.random.split(jax.random.key(0), 2)
    text, visual = jax.random.normal(keys[0], (3, WORDS, WIDTH)), jax.random.normal(keys[1], (3, TOKENS, WIDTH))
    text_mask = jnp.arange(WORDS) < jnp.array([5, 2, 4])[:, None]
    visual_mask = jnp.arange(TOKENS) < jnp.array([9, 6, 9])[:, None]
    return text, text_mask, visual, visual_mask


def build(**changes) -> Dfaf:
    return DfafConfig(num_selected=4, **changes).build(WIDTH, nnx.Rngs(0))


def constant(alpha: float) -> GateConfig:
    return GateConfig(kind="constant", value=alpha)


def test_alpha_one_is_the_chosen_tokens_as_they_were(inputs):
    visual = inputs[2]
    fused = build(gate=constant(1.0))(*inputs)
    np.testing.assert_array_equal(fused.tokens, np.take_along_axis(np.asarray(visual), fused.chosen[..., None], 1))


def test_alpha_zero_makes_all_rows_the_mean_of_the_words(inputs):
    text, text_mask, _, _ = inputs
    fused = build(gate=constant(0.0))(*inputs)
    mean = np.stack([np.asarray(row)[np.asarray(valid)].mean(0) for row, valid in zip(text, text_mask)])
    np.testing.assert_allclose(fused.tokens, np.repeat(mean[:, None], 4, axis=1), rtol=1e-6, atol=1e-6)


def test_the_chosen_are_those_most_like_a_word_in_their_own_order(inputs):
    text, text_mask, visual, visual_mask = (np.asarray(each) for each in inputs)
    fused = build()(*inputs)
    for sample in range(3):
        words, tokens = text[sample][text_mask[sample]], visual[sample]
        cosine = words @ tokens.T / np.linalg.norm(words, axis=1)[:, None] / np.linalg.norm(tokens, axis=1)
        best = np.where(visual_mask[sample], cosine.max(0), -np.inf)
        assert list(fused.chosen[sample]) == sorted(np.argsort(-best)[:4])
    assert (np.diff(fused.chosen, axis=1) > 0).all()


def test_as_many_as_there_are_loses_no_token(inputs):
    visual, visual_mask = inputs[2:]
    config = DfafConfig(num_selected=TOKENS, gate=constant(1.0))
    fused = config.build(WIDTH, nnx.Rngs(0))(*inputs)
    np.testing.assert_array_equal(fused.tokens, visual)
    np.testing.assert_array_equal(fused.mask, visual_mask)
    more = dataclasses.replace(config, num_selected=50).build(WIDTH, nnx.Rngs(0))(*inputs)
    np.testing.assert_array_equal(more.tokens, visual)


@pytest.mark.parametrize("reduce", ["max", "mean", "attention"])
@pytest.mark.parametrize("selection", ["tokens", "in_place", "per_token"])
def test_padding_is_never_chosen_and_changes_nothing(inputs, reduce, selection):
    text, text_mask, visual, visual_mask = inputs
    module = build(text_reduce=reduce, selection=selection)
    noisy = (
        jnp.where(text_mask[..., None], text, 50.0),
        text_mask,
        jnp.where(visual_mask[..., None], visual, jnp.abs(visual) * 30),
        visual_mask,
    )
    before, after = module(*inputs), module(*noisy)
    assert np.take_along_axis(np.asarray(visual_mask), np.asarray(before.chosen), axis=1).all()
    kept = before.mask[..., None]
    np.testing.assert_array_equal(before.mask, after.mask)
    np.testing.assert_allclose(jnp.where(kept, before.tokens, 0), jnp.where(kept, after.tokens, 0), atol=1e-5)
    np.testing.assert_allclose(before.probabilities.sum(1), 1, rtol=1e-5)
    assert (before.probabilities[~visual_mask] == 0).all()
    nowhere = jnp.zeros_like(visual_mask)
    losses = [module.mask_loss(fused, visual_mask, nowhere)[0] for fused in (before, after)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_fewer_tokens_than_wanted_are_masked(inputs):
    text, text_mask, visual, _ = inputs
    two = jnp.broadcast_to(jnp.arange(TOKENS) < 2, (3, TOKENS))
    fused = build()(text, text_mask, visual, two)
    assert fused.mask.sum(1).tolist() == [2, 2, 2]
    assert np.isfinite(build().mask_loss(fused, two, jnp.zeros_like(two))[0])


@pytest.mark.parametrize("masked", ["text", "visual"])
def test_without_words_or_a_picture_nothing_is_infinite_not_even_gradients(inputs, masked):
    text, text_mask, visual, visual_mask = inputs
    text_mask = text_mask & (masked != "text")
    visual_mask, visual = visual_mask & (masked != "visual"), visual.at[0, 0].set(0.0)

    def loss(text, visual):
        module = build()
        fused = module(text, text_mask, visual, visual_mask)
        total, count = module.mask_loss(fused, visual_mask, jnp.zeros_like(visual_mask))
        return jnp.where(fused.mask[..., None], fused.tokens, 0).sum() + total / jnp.maximum(count, 1)

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(text, visual)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_the_mask_loss_of_even_probabilities_is_the_logarithm_of_their_number(inputs):
    text, text_mask, _, visual_mask = inputs
    same = jnp.ones((3, TOKENS, WIDTH))
    module = build()
    everything = jnp.ones_like(visual_mask)
    total, count = module.mask_loss(module(text, text_mask, same, everything), everything, ~everything)
    assert total / count == pytest.approx(math.log(TOKENS), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
def test_the_mask_loss_is_at_least_the_logarithm_of_the_number_chosen(inputs, temperature):
    module = build(temperature=temperature)
    visual_mask = inputs[3]
    total, count = module.mask_loss(module(*inputs), visual_mask, jnp.zeros_like(visual_mask))
    assert count == 3
    assert total / count >= math.log(4) - 1e-5


def test_the_mask_loss_may_be_of_sigmoids_or_of_the_mass_in_the_box_of_the_task(inputs):
    visual_mask = inputs[3]
    inside = jnp.zeros_like(visual_mask).at[0, 2:4].set(True)
    module = build(mask_target="sigmoid")
    fused = module(*inputs)
    picked = np.take_along_axis(np.asarray(fused.scores), np.asarray(fused.chosen), 1) / 0.07
    total, count = module.mask_loss(fused, visual_mask, inside)
    assert total / count == pytest.approx(np.log1p(np.exp(-picked)).mean(), rel=1e-4)
    module = build(mask_target="target_box")
    total, count = module.mask_loss(module(*inputs), visual_mask, inside)
    assert count == 1, "of one sample the box is known"
    assert total == pytest.approx(-np.log(fused.probabilities[0, 2:4].sum()), rel=1e-5)


def test_words_may_count_evenly_or_by_a_learned_query(inputs):
    text, visual = np.asarray(inputs[0]), np.asarray(inputs[2])
    module = build(text_reduce="mean")
    scores = module(*inputs).scores[1]
    words = text[1][:2] / np.linalg.norm(text[1][:2], axis=1, keepdims=True)
    tokens = visual[1][:6] / np.linalg.norm(visual[1][:6], axis=1, keepdims=True)
    np.testing.assert_allclose(scores[:6], (words @ tokens.T).mean(0), rtol=1e-4, atol=1e-6)
    weighed = build(text_reduce="attention")
    np.testing.assert_allclose(weighed(*inputs).scores, module(*inputs).scores, rtol=1e-5)  # it begins even
    weighed.text_query[...] = jnp.arange(WIDTH, dtype=jnp.float32)
    assert np.abs(weighed(*inputs).scores[1, :6] - scores[:6]).max() > 1e-3


def test_chosen_tokens_may_stay_in_their_places(inputs):
    fused = build(selection="in_place", gate=constant(1.0))(*inputs)
    np.testing.assert_array_equal(fused.tokens, inputs[2])
    assert fused.mask.sum(1).tolist() == [4, 4, 4]
    picked = build()(*inputs).chosen
    assert [list(np.flatnonzero(row)) for row in fused.mask] == picked.tolist()


def test_each_word_may_have_its_own(inputs):
    """With one token a word: the one that is most like it."""
    text, text_mask, visual, _ = inputs
    module = DfafConfig(num_selected=1, selection="per_token", gate=constant(1.0)).build(WIDTH, nnx.Rngs(0))
    fused = module(*inputs)
    words, tokens = np.asarray(text[0]), np.asarray(visual[0])
    cosine = words @ tokens.T / np.linalg.norm(tokens, axis=1)
    np.testing.assert_allclose(fused.tokens[0], tokens[cosine.argmax(1)], atol=1e-5)
    np.testing.assert_array_equal(fused.mask, text_mask)
    assert fused.places is None


@pytest.mark.parametrize(
    ("gate", "count"),
    [
        (GateConfig(), WIDTH + 1),
        (GateConfig(kind="vector"), WIDTH**2 + WIDTH),
        (GateConfig(kind="mlp", hidden_width=7), 2 * WIDTH * 7 + 7 + WIDTH),
        (GateConfig(kind="constant"), 0),
        (GateConfig(kind="sum"), 0),
    ],
)
def test_gates_have_their_sizes_and_lie_between_zero_and_one(inputs, gate, count):
    module = build(gate=gate)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module.gate))) == count
    alpha, rest = module.gate(jax.random.normal(jax.random.key(1), (3, WIDTH)))
    if gate.kind == "sum":
        assert (alpha == 1).all()
        assert (rest == 1).all()
    else:
        assert ((alpha > 0) & (alpha < 1)).all()
        np.testing.assert_allclose(alpha + rest, 1, rtol=1e-6)


def test_words_are_taught_by_the_gate_and_by_the_mask_loss(inputs):
    def through(part):
        def loss(text):
            module = build()
            fused = module(text, *inputs[1:])
            if part == "mask":
                return module.mask_loss(fused, inputs[3], jnp.zeros_like(inputs[3]))[0]
            return (fused.tokens**2).sum()

        return np.abs(jax.grad(loss)(inputs[0])).max()

    assert through("mask") > 1e-4
    assert through("tokens") > 1e-4


def test_impossible_configs_are_refused():
    with pytest.raises(InputError, match="num_selected=0"):
        DfafConfig(num_selected=0)
    with pytest.raises(InputError, match="temperature=0"):
        DfafConfig(temperature=0.0)
