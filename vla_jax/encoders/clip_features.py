"""What EF-VLA reads of a CLIP: every token, or one embedding a picture and a text.

Axes: b batch, y x pixels, n patches, t text tokens, e shared width of text and vision.
Source: EF-VLA section 3.1 (X_attn of the last block, LN_final once); its published JAX code applies LN_final twice,
because the text encoder that it calls has applied it; the original ClearCLIP attends q q in the last block. LF-VLA
(cls) is named in the ablations without a definition; here it is CLIP's own pair of embeddings.

Padding of a text is read as CLIP's own tokenizers make it, whatever the ids there say, so that another tokenizer's
padding changes nothing: as end tokens that nothing attends to (transformers), or as token 0 that later padding
attends to (OpenAI's code, which knows no mask). The mask is causal: valid tokens see none of it.
"""

import abc
import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from vla_jax.encoders.clip import Clip
from vla_jax.encoders.vit import LastAttention
from vla_jax.nn.norms import l2_normalize

Padding = Literal["end", "zero"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipFeatures(abc.ABC):
    """Unit-length features in the shared space. One of the classes below."""

    @abc.abstractmethod
    def text(self, clip: Clip, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b _ e"]: ...

    @abc.abstractmethod
    def pictures(self, clip: Clip, images: UInt8[Array, "b y x 3"]) -> Float[Array, "b _ e"]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipTokens(ClipFeatures):
    last_attention: LastAttention | None = "qk"
    """X_attn of the last block, with its plain scores or ClearCLIP's; None: X_out, the whole block's output."""
    double_text_norm: bool = False
    """True: LN_final twice, as the published JAX code has it."""
    padding: Padding = "end"

    def text(self, clip: Clip, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b t e"]:
        assert clip.text is not None
        if self.padding == "end":
            last = jnp.maximum(mask.sum(axis=-1, keepdims=True) - 1, 0)
            tokens = clip.text(jnp.where(mask, ids, jnp.take_along_axis(ids, last, axis=-1)), mask)
        else:
            tokens = clip.text(jnp.where(mask, ids, 0), jnp.ones_like(mask))
        if self.double_text_norm:
            tokens = clip.text.final_norm(tokens)
        return l2_normalize(clip.text_projection(tokens))

    def pictures(self, clip: Clip, images: UInt8[Array, "b y x 3"]) -> Float[Array, "b n e"]:
        return clip.vision_attention(images, self.last_attention)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipEmbeddings(ClipFeatures):
    """The class token's embedding of a picture and the end token's of a text, as sets of one (LF-VLA (cls))."""

    def text(self, clip: Clip, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b 1 e"]:
        return clip.text_embedding(ids, mask)[:, None]

    def pictures(self, clip: Clip, images: UInt8[Array, "b y x 3"]) -> Float[Array, "b 1 e"]:
        return clip.vision_embedding(images)[:, None]
