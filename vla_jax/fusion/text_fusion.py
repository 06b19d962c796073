"""How text and patches of a picture become the tokens that are pooled. One file a kind; all are called alike.

Axes: b batch, t text tokens, n patches, k tokens that come out, d shared text-image width.
"""

import abc
import dataclasses

from flax import nnx
from jaxtyping import Array, Float


class TextFusion(nnx.Module):
    gives_text = True
    """True: one token comes out for each text token."""

    def __call__(self, text: Float[Array, "b t d"], patches: Float[Array, "b n d"]) -> Float[Array, "b k d"]:
        """Both inputs have unit length over d."""
        raise NotImplementedError

    def attention(self, text: Float[Array, "b t d"], patches: Float[Array, "b n d"]) -> Float[Array, "b t n"]:
        """Where each text token looks: rows sum to one over the patches. float32."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFusionConfig(abc.ABC):
    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs) -> TextFusion: ...
