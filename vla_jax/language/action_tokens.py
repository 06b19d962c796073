"""Actions as the last tokens of a language model's vocabulary (RT-2, OpenVLA).

Axes: any.
Source: OpenVLA (arXiv 2406.09246), section 3.2, and its published code. 256 evenly spaced edges from -1 to 1; an action
is clipped to them, and the number of edges that do not lie above it, 1 to 256, is counted down from the size of the
vocabulary. There are 255 bins between 256 edges: the last edge alone, 1.0, has a token of its own, which reads as the
last bin's centre. Every other id reads as the nearest bin: published code clips where a model says something else.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionTokens:
    vocab_size: int = 32_000
    """Of the tokenizer, before anything was added: Llama-2's. OpenVLA's embedding table has 32,064 rows: a padding
    token, then rows up to a multiple of 64; the published code subtracts 64 again."""
    num_edges: int = 256

    def encode(self, action: Float[Array, "*axes"]) -> Int[Array, "*axes"]:
        """Args: action: normalised."""
        clipped = jnp.clip(action.astype(jnp.float32), -1, 1)
        return self.vocab_size - jnp.searchsorted(self._edges, clipped, side="right", method="compare_all")

    def decode(self, ids: Int[Array, "*axes"]) -> Float[Array, "*axes"]:
        """The centres of bins."""
        bins = jnp.clip(self.vocab_size - ids - 1, 0, self.num_edges - 2)
        return jnp.asarray(self._centres, jnp.float32)[bins]

    @functools.cached_property
    def _edges(self) -> np.ndarray:
        """float32, rounded up: a float32 action lies on the same side of them as of the published code's float64."""
        exact = np.linspace(-1, 1, self.num_edges)
        rounded = exact.astype(np.float32)
        return np.where(rounded < exact, np.nextafter(rounded, np.float32(2)), rounded)

    @functools.cached_property
    def _centres(self) -> np.ndarray:
        exact = np.linspace(-1, 1, self.num_edges)
        return (exact[:-1] + exact[1:]) / 2
