"""A stack of equal blocks: parameters stacked on a leading `layers` axis, run by one scan.

Axes: l layers, b batch, n tokens, k memory tokens, d width, e memory width.
The scan body never returns a block: that would keep a second copy of the parameters.
"""

import dataclasses
from typing import Literal

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from vla_jax.nn.block import Block, BlockConfig

Remat = Literal["none", "full"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackConfig:
    block: BlockConfig
    num_layers: int
    remat: Remat = "full"
    """`full`: a block's activations are recomputed in the backward pass; only its input is kept."""

    def build(self, rngs: nnx.Rngs) -> "Stack":
        return Stack(self, rngs=rngs)


class Stack(nnx.Module):
    def __init__(self, config: StackConfig, *, rngs: nnx.Rngs):
        keys = jax.random.split(rngs.params(), config.num_layers)
        self.num_layers = config.num_layers
        self.remat = config.remat
        self.blocks = jax.vmap(lambda key: config.block.build(nnx.Rngs(key)))(keys)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        memory: Float[Array, "b k e"] | None = None,
        *,
        mask: Bool[Array, "..."] | None = None,
        key: Key[Array, ""] | None = None,
        stop: int | None = None,
    ) -> Float[Array, "b n d"]:
        """Runs blocks [0, stop); all of them by default."""
        return self._scan(x, memory, mask=mask, key=key, stop=stop, keep=False)[0]

    def outputs(
        self, x: Float[Array, "b n d"], *, mask: Bool[Array, "..."] | None = None, stop: int | None = None
    ) -> tuple[Float[Array, "b n d"], Float[Array, "l b n d"]]:
        """The last output, and the output of each block [0, stop)."""
        return self._scan(x, None, mask=mask, key=None, stop=stop, keep=True)

    def block(self, index: int) -> Block:
        return jax.tree.map(lambda stacked: stacked[index], self.blocks)

    def _scan(self, x, memory, *, mask, key, stop, keep):
        stop = self.num_layers if stop is None else stop
        blocks = self.blocks if stop == self.num_layers else jax.tree.map(lambda stacked: stacked[:stop], self.blocks)
        keys = None if key is None else jax.random.split(key, self.num_layers)[:stop]

        def body(x: Array, layer: tuple[Block, Key[Array, ""] | None]) -> tuple[Array, Array | None]:
            block, block_key = layer
            x = block(x, memory, mask=mask, key=block_key)
            return x, x if keep else None

        if self.remat == "full":
            body = jax.checkpoint(body, prevent_cse=False)
        return jax.lax.scan(body, x, (blocks, keys))
