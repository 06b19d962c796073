"""Linear layers whose parameters know their logical axes."""

import jax.numpy as jnp
from flax import nnx


def linear(
    in_width: int,
    out_width: int,
    axes: tuple[str | None, str | None],
    *,
    rngs: nnx.Rngs,
    use_bias: bool = True,
    kernel_init: nnx.Initializer | None = None,
) -> nnx.Linear:
    """A float32 linear layer; `axes` are the logical axes of its kernel [in, out].

    It computes in the promoted dtype of input and kernel: callers cast inputs to the kernel's dtype.
    """
    return nnx.Linear(
        in_width,
        out_width,
        use_bias=use_bias,
        param_dtype=jnp.float32,
        kernel_init=kernel_init or nnx.initializers.xavier_uniform(),
        kernel_metadata={"logical_axes": axes},
        bias_metadata={"logical_axes": (axes[1],)},
        rngs=rngs,
    )
