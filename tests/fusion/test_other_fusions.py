"""What stands in the place of EF-VLA's Eq. 4 in its ablations."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vla_jax.fusion.cross_fusion import CrossFusionConfig
from vla_jax.fusion.late_fusion import LateFusionConfig
from vla_jax.nn.norms import l2_normalize


def inputs():
    keys = jax.random.split(jax.random.key(0), 2)
    return l2_normalize(jax.random.normal(keys[0], (2, 5, 8))), l2_normalize(jax.random.normal(keys[1], (2, 9, 8)))


def test_cross_attention_is_its_weights_on_projected_patches():
    text, patches = inputs()
    fusion = CrossFusionConfig(width=8, num_heads=1).build(nnx.Rngs(0))
    weights = fusion.attention(text, patches)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    expected = fusion.cross.out(jnp.einsum("btn,bnd->btd", weights, fusion.cross.value(patches)))
    np.testing.assert_allclose(fusion(text, patches), expected, atol=1e-6)
    order = np.random.default_rng(0).permutation(9)
    np.testing.assert_allclose(fusion(text, patches[:, order]), fusion(text, patches), atol=1e-6)


def test_late_fusion_gives_the_patches_whatever_the_text():
    text, patches = inputs()
    fusion = LateFusionConfig().build(nnx.Rngs(0))
    assert not jax.tree.leaves(nnx.state(fusion))
    np.testing.assert_array_equal(fusion(text, patches), patches)
    np.testing.assert_allclose(fusion.attention(text, patches).sum(-1), 1, rtol=1e-6)
    assert not fusion.gives_text
