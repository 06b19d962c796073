"""SAM's mask decoder: prompt tokens and image embedding read one another, then each mask token draws its mask.

Axes: b batch, m masks asked for of a picture, z = b m, s prompt tokens, t tokens (quality, masks, prompt), n patches,
k masks given for one asked for, y x low-resolution pixels (four a patch), d width, e = d / 8.
Source: Kirillov et al. 2023, appendix A. In the first block self-attention has neither positions nor a residual.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vla_jax.encoders.sam.prompt_encoder import PromptTokens
from vla_jax.nn.attention import Attention, AttentionConfig, Projections
from vla_jax.nn.convolution import Enlargement
from vla_jax.nn.linear import linear
from vla_jax.nn.mlp import ACTIVATIONS, Activation, MlpConfig
from vla_jax.nn.norms import layer_norm
from vla_jax.types import InputError, TokenGrid

ENLARGEMENT_EPSILON, FINAL_EPSILON = 1e-6, 1e-5
gelu = ACTIVATIONS["gelu"]


class Masks(NamedTuple):
    logits: Float[Array, "b m k y x"]
    """Positive on the object."""
    quality: Float[Array, "b m k"]
    """Predicted intersection over union with the true mask."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamMaskDecoderConfig:
    width: int = 256
    num_layers: int = 2
    num_heads: int = 8
    mlp_width: int = 2048
    downsampling: int = 2
    """Cross-attention is narrower than the tokens by this factor."""
    num_masks: int = 3
    """For a prompt of several meanings; one more is for a prompt of one meaning."""
    quality_width: int = 256
    activation: Activation = "relu"
    epsilon: float = 1e-6

    def __post_init__(self):
        if self.width % (self.downsampling * self.num_heads) or self.width % 8:
            raise InputError(
                f"sam: mask decoder of width {self.width}: a multiple of 8 and of attention_downsample_rate="
                f"{self.downsampling} times num_attention_heads={self.num_heads} expected"
            )

    def attention(self, rngs: nnx.Rngs, *, downsampling: int) -> Attention:
        head_width = self.width // downsampling // self.num_heads
        return AttentionConfig(width=self.width, num_heads=self.num_heads, head_width=head_width).build(rngs)

    def build(self, rngs: nnx.Rngs) -> "SamMaskDecoder":
        return SamMaskDecoder(self, rngs=rngs)


class TwoWayBlock(nnx.Module):
    """Tokens read one another and the picture, then the picture reads the tokens. Norms come after."""

    def __init__(self, config: SamMaskDecoderConfig, *, rngs: nnx.Rngs):
        norm = functools.partial(layer_norm, config.width, epsilon=config.epsilon, rngs=rngs)
        self.self_attention, self.self_norm = config.attention(rngs, downsampling=1), norm()
        self.token_attention, self.token_norm = config.attention(rngs, downsampling=config.downsampling), norm()
        self.mlp = MlpConfig(hidden_width=config.mlp_width, activation=config.activation).build(config.width, rngs)
        self.mlp_norm = norm()
        self.image_attention, self.image_norm = config.attention(rngs, downsampling=config.downsampling), norm()

    def __call__(
        self,
        tokens: Float[Array, "z t d"],
        image: Float[Array, "z n d"],
        token_positions: Float[Array, "z t d"],
        image_positions: Float[Array, "n d"],
        *,
        is_first: bool,
    ) -> tuple[Float[Array, "z t d"], Float[Array, "z n d"]]:
        if is_first:
            tokens = self.self_norm(_read(self.self_attention, tokens, tokens, tokens))
        else:
            placed = tokens + token_positions
            tokens = self.self_norm(tokens + _read(self.self_attention, placed, placed, tokens))
        seen = image + image_positions
        tokens = self.token_norm(tokens + _read(self.token_attention, tokens + token_positions, seen, image))
        tokens = self.mlp_norm(tokens + self.mlp(tokens))
        image = self.image_norm(image + _read(self.image_attention, seen, tokens + token_positions, tokens))
        return tokens, image


class ThreeLayers(nnx.Module):
    """A perceptron of three linear layers, with relu between them."""

    def __init__(self, width: int, hidden_width: int, out_width: int, *, rngs: nnx.Rngs):
        self.first = linear(width, hidden_width, ("embed", "mlp"), rngs=rngs)
        self.middle = linear(hidden_width, hidden_width, (None, "mlp"), rngs=rngs)
        self.last = linear(hidden_width, out_width, ("mlp", None), rngs=rngs)

    def __call__(self, x: Float[Array, "*rest d"]) -> Float[Array, "*rest o"]:
        return self.last(jax.nn.relu(self.middle(jax.nn.relu(self.first(x)))))


class SamMaskDecoder(nnx.Module):
    def __init__(self, config: SamMaskDecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, num_tokens = config.width, config.num_masks + 1
        init = nnx.initializers.normal(1.0)
        self.quality_token = nnx.Param(init(rngs.params(), (width,)), logical_axes=("embed",))
        self.mask_tokens = nnx.Param(init(rngs.params(), (num_tokens, width)), logical_axes=(None, "embed"))
        keys = jax.random.split(rngs.params(), config.num_layers)
        self.blocks = jax.vmap(lambda key: TwoWayBlock(config, rngs=nnx.Rngs(key)))(keys)
        self.final_attention = config.attention(rngs, downsampling=config.downsampling)
        self.final_norm = layer_norm(width, epsilon=FINAL_EPSILON, rngs=rngs)
        self.enlarge_in = Enlargement(width, width // 4, 2, rngs=rngs)
        self.enlarge_norm = layer_norm(width // 4, epsilon=ENLARGEMENT_EPSILON, rngs=rngs)
        self.enlarge_out = Enlargement(width // 4, width // 8, 2, rngs=rngs)
        keys = jax.random.split(rngs.params(), num_tokens)
        self.hypernetworks = jax.vmap(lambda key: ThreeLayers(width, width, width // 8, rngs=nnx.Rngs(key)))(keys)
        self.quality_head = ThreeLayers(width, config.quality_width, num_tokens, rngs=rngs)

    def __call__(
        self, image: TokenGrid, image_positions: Float[Array, "n d"], prompt: PromptTokens, *, multimask: bool
    ) -> Masks:
        """Args: multimask: gives the masks for a prompt of several meanings; otherwise the one of a single meaning."""
        prompts = prompt.sparse.shape[1]
        outputs = jnp.concatenate([self.quality_token[...][None], self.mask_tokens[...]])
        start = jnp.broadcast_to(outputs, (*prompt.sparse.shape[:2], *outputs.shape))
        start = jnp.concatenate([start, prompt.sparse], axis=2)
        start = start.reshape(-1, *start.shape[2:])
        seen = jnp.repeat(image.tokens + prompt.dense, prompts, axis=0)
        tokens, seen = self._read_one_another(start, seen, image_positions)
        masks = slice(1, None) if multimask else slice(0, 1)
        whole = seen.reshape(len(seen), image.rows, image.columns, -1)
        whole = gelu(self.enlarge_out(gelu(self.enlarge_norm(self.enlarge_in(whole)))))
        strokes = jax.vmap(lambda network, token: network(token), in_axes=(0, 1), out_axes=1)(
            self.hypernetworks, tokens[:, 1 : len(outputs)]
        )
        logits = jnp.einsum("zke,zyxe->zkyx", strokes[:, masks], whole)
        quality = self.quality_head(tokens[:, 0])[:, masks]
        return Masks(logits.reshape(-1, prompts, *logits.shape[1:]), quality.reshape(-1, prompts, quality.shape[1]))

    def _read_one_another(
        self, start: Float[Array, "z t d"], image: Float[Array, "z n d"], image_positions: Float[Array, "n d"]
    ) -> tuple[Float[Array, "z t d"], Float[Array, "z n d"]]:
        """The tokens' start is also their position. The blocks are two, and the first is another: no scan."""
        tokens = start
        for layer in range(self.config.num_layers):
            block = jax.tree.map(lambda stacked, layer=layer: stacked[layer], self.blocks)
            tokens, image = block(tokens, image, start, image_positions, is_first=layer == 0)
        read = _read(self.final_attention, tokens + start, image + image_positions, image)
        return self.final_norm(tokens + read), image


def _read(
    attention: Attention, query: Float[Array, "z q d"], key: Float[Array, "z k d"], value: Float[Array, "z k d"]
) -> Float[Array, "z q d"]:
    """Keys have positions that values do not have."""
    projected = (attention.query(query), attention.key(key), attention.value(value))
    heads = (x.reshape(*x.shape[:-1], -1, attention.config.features) for x in projected)
    return attention.combine(Projections(*heads))
