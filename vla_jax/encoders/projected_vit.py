"""A vision transformer with a learned projection into the text space, trained from scratch.

Axes: b batch, y x pixels, n patches, e out width.
Source: EF-VLA's ablation "w.o. CLIP vision": ViT-Ti/16 of half its depth. The paper does not say how its
192-wide patches meet the text features in Eq. 4; here a learned projection takes the place of w_v, and the
features are those of the whole last block.
"""

import dataclasses

from flax import nnx
from jaxtyping import Array, Float, UInt8

from vla_jax.encoders.vit import VitConfig
from vla_jax.nn.linear import linear
from vla_jax.nn.norms import l2_normalize


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProjectedVitConfig:
    vit: VitConfig
    out_width: int

    def build(self, rngs: nnx.Rngs) -> "ProjectedVit":
        return ProjectedVit(self, rngs=rngs)


class ProjectedVit(nnx.Module):
    def __init__(self, config: ProjectedVitConfig, *, rngs: nnx.Rngs):
        self.vit = config.vit.build(rngs)
        self.projection = linear(config.vit.width, config.out_width, ("embed", "feature"), use_bias=False, rngs=rngs)

    def __call__(self, images: UInt8[Array, "b y x 3"]) -> Float[Array, "b n e"]:
        """Projected patch tokens, unit length."""
        return l2_normalize(self.projection(self.vit(images).tokens))
