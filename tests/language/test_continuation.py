"""Prompts with further embeddings behind them: padding between changes nothing, and who sees whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.language import llama
from vla_jax.language.continuation import continuation, outputs_before
from vla_jax.language.generation import text_prompt

FURTHER = 3


@pytest.fixture(scope="module")
def decoder():
    return llama.tiny().build(nnx.Rngs(0))


@pytest.fixture(scope="module")
def further():
    return jax.random.normal(jax.random.key(1), (2, FURTHER, 24))


def outputs(decoder, ids, valid, further, attention):
    prompt = text_prompt(decoder, jnp.asarray(ids), jnp.asarray(valid))
    given = continuation(decoder, prompt, further, attention)
    hidden = run(decoder, given.embeddings, given.mask, given.rotation)
    return np.asarray(hidden[:, -FURTHER:]), np.asarray(outputs_before(prompt, hidden, FURTHER))


@jax.jit
def run(decoder, embeddings, mask, rotation):
    return decoder.hidden(embeddings, mask=mask, rotation=rotation).tokens


IDS = np.random.default_rng(0).integers(1, 99, (2, 5))


@pytest.mark.parametrize("attention", ["causal", "all"])
def test_padding_between_prompt_and_further_tokens_changes_nothing(decoder, further, attention):
    plain = outputs(decoder, IDS, np.ones((2, 5), bool), further, attention)
    padded = outputs(
        decoder, np.pad(IDS, ((0, 0), (0, 4)), constant_values=7), np.arange(9) < [[5], [5]], further, attention
    )
    for found, expected in zip(padded, plain, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_outputs_before_are_those_of_the_last_valid_token_and_of_all_further_ones_but_the_last(decoder, further):
    own, before = outputs(decoder, IDS, np.arange(5) < [[5], [3]], further, "causal")
    np.testing.assert_array_equal(before[:, 1:], own[:, :-1])
    short = text_prompt(decoder, jnp.asarray(IDS[1:, :3]), jnp.ones((1, 3), bool))
    alone = run(decoder, short.embeddings, short.mask, short.rotation)
    np.testing.assert_allclose(before[1, 0], alone[0, -1], atol=1e-5)


@pytest.mark.parametrize("attention", ["causal", "all"])
def test_only_where_all_see_all_do_earlier_tokens_know_later_ones(decoder, further, attention):
    valid = np.ones((2, 5), bool)
    _, before = outputs(decoder, IDS, valid, further, attention)
    _, after = outputs(decoder, IDS, valid, further.at[:, -1].add(1.0), attention)
    change = np.abs(after - before).max(axis=(0, 2))
    assert (change > 1e-3).tolist() == [attention == "all"] * FURTHER  # the prompt's last token among them
