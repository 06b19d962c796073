"""Greedy decoding with the cache against transformers' `generate`, and what the loop promises beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.language.decoder_twins import FAMILIES, Twins, as_torch, build_twins, padded_ids
from vla_jax.language import generation
from vla_jax.language.decoder import Decoder
from vla_jax.language.generation import DecodingConfig, generate
from vla_jax.nn.attention import KeyValue
from vla_jax.types import InputError

torch = pytest.importorskip("torch")

NUM_TOKENS = 32


@pytest.fixture(scope="module", params=FAMILIES)
def twins(request, tmp_path_factory) -> Twins:
    """Small embeddings: a tied head would else find each token likeliest after itself."""
    return build_twins(request.param, tmp_path_factory.mktemp(request.param), embedding_scale=0.1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Twins:
    return build_twins("llama", tmp_path_factory.mktemp("llama"))


def their_ids(theirs, ids, valid, *, end: int | None = None) -> np.ndarray:
    tokens, mask = as_torch(ids, valid)
    settings = {"max_new_tokens": NUM_TOKENS, "do_sample": False, "pad_token_id": 0, "eos_token_id": end}
    with torch.no_grad():
        return theirs.generate(input_ids=tokens, attention_mask=mask, **settings)[:, ids.shape[1] :].numpy()


def our_ids(decoder: Decoder, ids, valid, key=None, **config) -> np.ndarray:
    settings = DecodingConfig(num_tokens=NUM_TOKENS, **config)
    decode = jax.jit(lambda decoder, ids, valid: generate(decoder, ids, valid, settings, key))
    return np.asarray(decode(decoder, jnp.asarray(ids), jnp.asarray(valid)))


def test_greedy_ids_are_those_of_generate_for_prompts_of_unequal_lengths(twins):
    ids, valid = padded_ids(left=True)
    expected = their_ids(twins.theirs, ids, valid)
    assert all(len(set(row)) >= 6 for row in expected.tolist()), "the ids hardly vary: the test could not fail"

    np.testing.assert_array_equal(our_ids(twins.ours, ids, valid), expected)
    np.testing.assert_array_equal(our_ids(twins.ours, *padded_ids(left=False)), expected)


def wrong_slot(monkeypatch):
    """Keys and values are written one slot too early."""
    step = Decoder.step
    monkeypatch.setattr(Decoder, "step", lambda self, *args, slot, **more: step(self, *args, slot=slot - 1, **more))


def wrong_position(monkeypatch):
    prompt = generation.text_prompt

    def shifted(*args):
        found = prompt(*args)
        return found._replace(next_position=found.next_position + 1)

    monkeypatch.setattr(generation, "text_prompt", shifted)


def padding_counted(monkeypatch):
    """As if the prompt were valid from end to end."""
    prompt = generation.text_prompt
    monkeypatch.setattr(generation, "text_prompt", lambda d, ids, valid: prompt(d, ids, jnp.ones_like(valid)))


@pytest.mark.parametrize("wrong", [wrong_slot, wrong_position, padding_counted])
def test_wrong_twins_give_other_ids(llama, monkeypatch, wrong):
    ids, valid = padded_ids(left=True)
    right = our_ids(llama.ours, ids, valid)
    wrong(monkeypatch)
    assert (our_ids(llama.ours, ids, valid) != right).mean() > 0.1


def test_a_row_ends_with_the_end_and_is_padded_after_it(llama):
    ids, valid = padded_ids(left=True)
    free = our_ids(llama.ours, ids, valid)
    end = int(free[0, 5])
    expected = their_ids(llama.theirs, ids, valid, end=end)
    stopped = our_ids(llama.ours, ids, valid, end_ids=(end,))

    np.testing.assert_array_equal(stopped[:, : expected.shape[1]], expected)
    assert not stopped[:, expected.shape[1] :].any()
    first = int(np.argmax(free[0] == end))
    assert stopped[0, first] == end
    assert not stopped[0, first + 1 :].any()


def test_prompts_with_embeddings_masks_and_rotations_of_their_own(llama):
    """A prefix that sees itself both ways: the first id is that of a full pass."""
    ids, valid = (jnp.asarray(array) for array in padded_ids(left=True, lengths=(6, 6)))
    prompt = generation.text_prompt(llama.ours, ids, valid)._replace(mask=jnp.ones((2, 6, 6), bool))
    prefix = generation.prefill(llama.ours, prompt, room=1)
    found = generation.decode(llama.ours, prefix, DecodingConfig(num_tokens=2))

    x = jnp.concatenate([prompt.embeddings, llama.ours.embed(found[:, :1])], axis=1)
    mask = jnp.tril(jnp.ones((7, 7), bool)).at[:6, :6].set(True)
    rotation = llama.ours.rotation(jnp.tile(jnp.arange(7), (2, 1)))
    logits = llama.ours.logits(llama.ours.hidden(x, mask=mask, rotation=rotation).tokens[:, 5:])
    np.testing.assert_array_equal(found, logits.argmax(-1))
    causal = llama.ours.hidden(x, mask=jnp.tril(mask), rotation=rotation).tokens[:, 5:]
    assert np.abs(llama.ours.logits(causal) - logits).max() > 1e-2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_id_outside_the_vocabulary_gives_no_token_rather_than_an_ordinary_one(llama, temperature):
    """In its own row alone; ids of padding may still be anything."""
    ids, valid = padded_ids(left=True)
    key = jax.random.key(0) if temperature else None
    right = our_ids(llama.ours, ids, valid, key, temperature=temperature)
    outside = np.where(valid, ids, 10**6)
    outside[2, -2] = llama.config.decoder.vocab_size
    found = our_ids(llama.ours, outside, valid, key, temperature=temperature)
    np.testing.assert_array_equal(found[:2], right[:2])
    assert (right >= 0).all()
    assert (found[2] == generation.NO_TOKEN).all()


def test_drawn_tokens_follow_their_key_and_need_one(llama):
    ids, valid = padded_ids(left=True)
    greedy = our_ids(llama.ours, ids, valid)
    drawn = [our_ids(llama.ours, ids, valid, jax.random.key(seed), temperature=3.0) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    assert (drawn[0] != greedy).any()
    np.testing.assert_array_equal(our_ids(llama.ours, ids, valid, jax.random.key(0), temperature=1e-4), greedy)
    with pytest.raises(InputError, match="a key where tokens are drawn"):
        our_ids(llama.ours, ids, valid, temperature=1.0)
    with pytest.raises(InputError, match="num_tokens=0"):
        DecodingConfig(num_tokens=0)


def test_a_longer_cache_costs_its_own_size_once_and_no_further_traces(llama, monkeypatch):
    """Nothing is allocated a step: what the compiled loop needs grows by the cache alone."""
    traces = []
    step = Decoder.step
    monkeypatch.setattr(Decoder, "step", lambda self, *args, **more: traces.append(0) or step(self, *args, **more))
    ids, valid = (jnp.asarray(array) for array in padded_ids(left=True))

    def needed(num_tokens: int) -> tuple[int, int]:
        traces.clear()
        settings = DecodingConfig(num_tokens=num_tokens)
        compiled = jax.jit(lambda d, i, v: generate(d, i, v, settings)).lower(llama.ours, ids, valid).compile()
        return compiled.memory_analysis().temp_size_in_bytes, len(traces)

    (short, few), (long, many) = needed(1000), needed(3000)
    config = llama.config.decoder
    row = KeyValue(*(np.zeros((config.num_layers, 3, config.num_key_value_heads, config.head_width), np.float32),) * 2)
    cache = 2000 * (row.key.nbytes + row.value.nbytes)
    one_layer = cache / config.num_layers
    assert few == many
    assert cache <= long - short <= cache + 2 * one_layer
