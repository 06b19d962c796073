"""What EF-VLA reads of CLIP: each choice is what its name says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.encoders.clip import clip_tiny
from vla_jax.encoders.clip_features import ClipEmbeddings, ClipTokens
from vla_jax.nn.norms import l2_normalize

MASK = jnp.arange(7)[None] < jnp.array([[4], [7]])
IDS = jax.random.randint(jax.random.key(1), (2, 7), 3, 500)
END = jnp.where(MASK, IDS, jnp.take_along_axis(IDS, MASK.sum(1, keepdims=True) - 1, axis=1))


@pytest.fixture(scope="module")
def clip():
    model = clip_tiny().build(nnx.Rngs(0))
    norm = model.text.final_norm  # another than the identity, or a second one would hardly show
    norm.scale[...] = jnp.linspace(0.5, 2.0, 20)
    norm.bias[...] = jnp.linspace(-1.0, 1.0, 20)
    return model


@pytest.fixture(scope="module")
def images():
    return jax.random.randint(jax.random.key(2), (2, 32, 32, 3), 0, 256).astype(jnp.uint8)


def test_padding_reads_as_end_tokens_whatever_stands_there(clip):
    features = ClipTokens()
    found = features.text(clip, IDS, MASK)
    np.testing.assert_allclose(found, clip.text_tokens(END, MASK), atol=1e-6)
    np.testing.assert_array_equal(found, features.text(clip, jnp.where(MASK, IDS, 9), MASK))


def test_zero_padding_is_token_0_seen_by_the_padding_after_it(clip):
    found = ClipTokens(padding="zero").text(clip, IDS, MASK)
    np.testing.assert_allclose(found, clip.text_tokens(jnp.where(MASK, IDS, 0), jnp.ones_like(MASK)), atol=1e-6)
    np.testing.assert_allclose(found[MASK], ClipTokens().text(clip, IDS, MASK)[MASK], atol=1e-6)
    assert np.abs(found[0, 5] - clip.text_tokens(jnp.where(MASK, IDS, 0), MASK)[0, 5]).max() > 1e-4


def test_a_second_text_norm_is_applied_when_asked_for(clip):
    twice = ClipTokens(double_text_norm=True).text(clip, IDS, MASK)
    hidden = clip.text.hidden(END, MASK).tokens
    norm = clip.text.final_norm
    np.testing.assert_allclose(twice, l2_normalize(clip.text_projection(norm(norm(hidden)))), atol=1e-6)
    assert np.abs(twice - ClipTokens().text(clip, IDS, MASK)).max() > 1e-2


def test_patches_come_from_x_attn_by_either_scores_or_from_x_out(clip, images):
    found = {mode: ClipTokens(last_attention=mode).pictures(clip, images) for mode in ("qk", "qq", None)}
    np.testing.assert_allclose(found[None], l2_normalize(clip.vision_projection(clip.vision(images).tokens)), atol=1e-6)
    np.testing.assert_allclose(found["qq"], clip.vision_attention(images, "qq"), atol=1e-6)
    for one, other in (("qk", "qq"), ("qk", None), ("qq", None)):
        assert np.abs(found[one] - found[other]).max() > 1e-2


def test_embeddings_are_clips_own_pair(clip, images):
    features = ClipEmbeddings()
    np.testing.assert_allclose(features.text(clip, IDS, MASK)[:, 0], clip.text_embedding(IDS, MASK), atol=1e-6)
    np.testing.assert_allclose(features.pictures(clip, images)[:, 0], clip.vision_embedding(images), atol=1e-6)
