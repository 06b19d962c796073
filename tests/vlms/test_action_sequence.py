"""The sequence that Qwen3-VL reads as a robot policy: what stands where, and who sees whom."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.policies.twin import drawn
from vla_jax.parameters import abstract, split
from vla_jax.types import InputError
from vla_jax.vlms import qwen3_vl
from vla_jax.vlms.action_reader import ActionReaderConfig, small_reader, tiny_reader
from vla_jax.vlms.action_sequence import ActionSequenceConfig, action_sequence

CONFIG = ActionSequenceConfig(before=(7, 5), picture_start=516, picture_end=517, after=(9, 8, 6))
WORDS = jnp.array([[20, 21, 22, 30], [23, 30, 30, 30]])
WORD_MASK = jnp.array([[True, True, True, False], [True, False, False, False]])


@pytest.fixture(scope="module")
def model():
    structure = abstract(lambda: qwen3_vl.tiny_with_words().build(nnx.Rngs(0)))
    return structure.merge(jax.tree.map(jnp.asarray, drawn(structure.shapes())))


@pytest.fixture(scope="module")
def picture(model):
    return jax.jit(model.vision)(jax.random.randint(jax.random.key(0), (2, 16, 16, 3), 0, 256).astype(jnp.uint8))


def _sequence(model, picture, config=CONFIG, words=(WORDS, WORD_MASK), is_there=(True, True), **more):
    pictures = [(picture, jnp.array(is_there))]
    return action_sequence(model, config, pictures, words, num_actions=2, **more)


def test_the_turn_is_put_together_from_ids_pictures_and_words(model, picture):
    found = _sequence(model, picture)
    inputs = found.inputs
    assert found.pictures == ((3, 7),)
    assert found.words == (8, 12)
    np.testing.assert_array_equal(inputs.embeddings[:, 3:7], picture.merged.tokens)
    np.testing.assert_array_equal(inputs.additions[:, :, 3:7], picture.deepstack)
    for places, ids in ((slice(0, 3), [7, 5, 516]), (slice(7, 8), [517]), (slice(12, 15), [9, 8, 6])):
        np.testing.assert_array_equal(inputs.embeddings[0, places], model.text.embed(jnp.array(ids)))
    np.testing.assert_array_equal(inputs.embeddings[0, 8:11], model.text.embed(WORDS[0, :3]))
    assert (inputs.embeddings[:, found.actions] == 0).all()
    assert inputs.embeddings.shape[1] == 17


def test_a_sequence_of_parts_is_what_its_ids_would_be_and_so_is_its_gradient(model, picture):
    """`Qwen3Vl.inputs` is compared with transformers elsewhere."""
    words = jnp.where(WORD_MASK, WORDS, 99)
    front, back = np.array([7, 5, 516]), np.array([9, 8, 6])
    parts = [front, picture, np.array([517]), qwen3_vl.Words(words, WORD_MASK), back]
    rows = [jnp.broadcast_to(jnp.asarray(ids), (2, len(ids))) for ids in (front, [515] * 4, [517])]
    ids = jnp.concatenate([*rows, words, jnp.broadcast_to(back, (2, 3))], axis=1)
    valid = jnp.pad(WORD_MASK, ((0, 0), (8, 3)), constant_values=True)

    def by_ids(model):
        return model.inputs(ids, valid, [picture])

    def by_parts(model, parts=parts):
        return model.sequence(parts)

    for found, expected in zip(by_parts(model), by_ids(model), strict=True):
        np.testing.assert_array_equal(found, expected)

    structure, parameters = split(model)

    def gradient(inputs):
        def value(parameters):
            return (inputs(structure.merge(parameters)).embeddings ** 3).sum()

        return jax.jit(jax.grad(value))(parameters)["language/tokens"]

    expected = gradient(by_ids)
    assert jnp.abs(expected).sum(-1).astype(bool).sum() == 12, "each id that is read, and no other"
    np.testing.assert_allclose(gradient(by_parts), expected, rtol=1e-6, atol=1e-9)
    wrong = gradient(lambda model: by_parts(model, [front, picture, np.array([516]), *parts[3:]]))
    assert jnp.abs(wrong - expected).max() > 1e-3 * jnp.abs(expected).max()


def test_padding_between_the_words_and_the_turn_s_end_takes_no_position(model, picture):
    positions = _sequence(model, picture).inputs.positions
    # before 0 1, start 2, picture 3..4 in rows and columns, end 5, words 6.., then the turn's end and the actions
    np.testing.assert_array_equal(positions[0, 0], [0, 1, 2, 3, 3, 3, 3, 5, 6, 7, 8, 0, 9, 10, 11, 12, 13])
    np.testing.assert_array_equal(positions[1, 0, 3:7], [3, 3, 4, 4])
    np.testing.assert_array_equal(positions[2, 0, 3:7], [3, 4, 3, 4])
    np.testing.assert_array_equal(positions[0, 1, -5:], [7, 8, 9, 10, 11])


def test_the_prompt_is_causal_and_action_tokens_see_everything_that_is_valid(model, picture):
    found = _sequence(model, picture, is_there=(True, False))
    mask, valid = np.asarray(found.mask.dense()), np.asarray(found.inputs.valid)
    assert not valid[0, 11]
    assert not valid[1, 3:7].any(), "a missing picture's places"
    prompt = np.tril(np.ones((15, 15), bool)) & valid[:, None, :15] | np.eye(15, dtype=bool)
    np.testing.assert_array_equal(mask[:, :15, :15], prompt)
    assert not mask[:, :15, 15:].any()
    np.testing.assert_array_equal(mask[:, 15:], np.broadcast_to(valid[:, None], (2, 2, 17)))


def test_action_tokens_may_be_causal_as_in_the_published_code(model, picture):
    mask = _sequence(model, picture, dataclasses.replace(CONFIG, bidirectional=False)).mask.dense()
    assert not mask[:, -2, -1].any()
    assert mask[:, -1, -2].all()


def test_the_id_of_pictures_among_the_words_is_padding_and_a_state_stands_before_the_actions(model, picture):
    words = (WORDS.at[0, 1].set(515), WORD_MASK)
    found = _sequence(model, picture, words=words, state=jnp.full((2, 1, 20), 0.5))
    assert jnp.isfinite(found.inputs.embeddings).all()
    assert not found.inputs.valid[0, 9]
    assert (found.inputs.embeddings[:, -3] == 0.5).all()
    assert not found.mask.dense()[:, -3, -2:].any(), "the state is part of the prompt"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cameras": ()}, "cameras"),
        ({"cameras": ("primary", "primary")}, "cameras"),
        ({"text_length": 0}, "text_length=0"),
        ({"image_size": 30}, "image_size=30"),
        ({"sequence": ActionSequenceConfig()}, "outside the 520"),
        ({"sequence": dataclasses.replace(CONFIG, picture_end=515)}, "515 stands for pictures"),
    ],
)
def test_impossible_readers_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(tiny_reader(ActionReaderConfig()), **changes).check(qwen3_vl.tiny_with_words())


def test_the_small_reader_s_ids_are_beyond_the_built_in_tokenizer_s():
    sequence = small_reader(64).sequence
    assert min(sequence.picture_start, sequence.picture_end) >= 512
    small_reader(64).check(qwen3_vl.small(image_size=64, patch_size=8, width=64, num_layers=4))
