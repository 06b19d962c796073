"""A learned query that gathers a picture's patches into one vector (multihead attention pooling, MAP).

Axes: b batch, n patches, d width. Source: Zhai et al. 2022 (arXiv 2106.04560); the head of SigLIP's vision half.
The query is not added to what its attention finds; that is added to what the perceptron makes of it.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vla_jax.encoders.vit import VitConfig
from vla_jax.nn.attention import AttentionConfig
from vla_jax.nn.mlp import MlpConfig
from vla_jax.nn.norms import layer_norm


class AttentionPooling(nnx.Module):
    """Of the same heads, perceptron and norm as the blocks of `config`, whose tokens it pools."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        width = config.width
        query = nnx.initializers.normal(width**-0.5)(rngs.params(), (1, width))
        self.query = nnx.Param(query, logical_axes=(None, "embed"))
        self.attention = AttentionConfig(width=width, num_heads=config.num_heads).build(rngs)
        self.norm = layer_norm(width, epsilon=config.epsilon, rngs=rngs)
        self.mlp = MlpConfig(hidden_width=config.mlp_width, activation=config.activation).build(width, rngs)

    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        query = jnp.broadcast_to(self.query[...], (len(tokens), *self.query[...].shape))
        found = self.attention(query, tokens)
        return (found + self.mlp(self.norm(found)))[:, 0]
