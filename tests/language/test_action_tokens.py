"""OpenVLA's action tokens, by literal ids and by the published arithmetic in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from vla_jax.language.action_tokens import ActionTokens


def published_ids(action: np.ndarray) -> np.ndarray:
    return 32_000 - np.digitize(np.clip(action, -1.0, 1.0), np.linspace(-1, 1, 256))


def published_actions(ids: np.ndarray) -> np.ndarray:
    edges = np.linspace(-1, 1, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    return centres[np.clip(32_000 - ids - 1, 0, len(centres) - 1)]


def test_literal_ids_and_centres():
    tokens = ActionTokens()
    action = jnp.array([-1.0, -7.0, 0.0, 0.5, 1.0, 3.0])
    assert tokens.encode(action).tolist() == [31999, 31999, 31872, 31808, 31744, 31744]
    # The first, the middle and the last bin; the token of 1.0 alone; a word; a row that pads the table.
    decoded = tokens.decode(jnp.array([31999, 31872, 31745, 31744, 100, 32063]))
    expected = [-0.99607843, 0.0, 0.99607843, 0.99607843, 0.99607843, -0.99607843]
    np.testing.assert_allclose(decoded, expected, atol=1e-7)


def test_ids_are_the_published_ones_for_every_float_around_an_edge():
    edges = np.linspace(-1, 1, 256).astype(np.float32)
    near = [edges, np.nextafter(edges, np.float32(-2)), np.nextafter(edges, np.float32(2))]
    action = np.concatenate([*near, np.random.default_rng(0).uniform(-1.2, 1.2, 1000).astype(np.float32)])
    ids = jax.jit(ActionTokens().encode)(jnp.asarray(action))
    np.testing.assert_array_equal(ids, published_ids(action.astype(np.float64)))


def test_every_id_reads_as_the_published_action():
    ids = np.arange(32_064)
    found = jax.jit(ActionTokens().decode)(jnp.asarray(ids))
    np.testing.assert_allclose(found, published_actions(ids), atol=1e-7)


def test_the_padded_vocabulary_in_place_of_the_tokenizers_is_caught():
    action = jnp.linspace(-1, 1, 50).reshape(5, 10)
    right, wrong = ActionTokens(), ActionTokens(vocab_size=32_064)
    assert np.abs(np.asarray(right.decode(right.encode(action))) - action).max() < 1 / 255 + 1e-6
    assert np.abs(np.asarray(wrong.decode(right.encode(action))) - action).max() > 0.3
