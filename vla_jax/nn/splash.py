"""Attention by splash, the flash attention of JAX's own library for TPUs.

Axes: b batch, q queries, k keys, h heads, g heads of keys and values (h a multiple of g), f head width.
Source: jax.experimental.pallas.ops.tpu.splash_attention. What is static in a mask (who is in reach) is compiled into
the kernel, which leaves out blocks that nobody reaches; who is valid are its segments: valid positions are of one,
padding is of another and sees itself alone.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention
from jaxtyping import Array, Float, Int

from vla_jax.nn.attention_kernels import AttentionKernels, padded
from vla_jax.types import SelfMask

LANES = 128
LARGEST_BLOCK = 512


def attend_by_splash(
    query: Float[Array, "b q h f"],
    key: Float[Array, "b k g f"],
    value: Float[Array, "b k g f"],
    mask: SelfMask | None,
    soft_cap: float | None,
    kernels: AttentionKernels,
) -> Float[Array, "b q h f"]:
    reach = (key.shape[1],) * query.shape[1] if mask is None else mask.reach
    on_one_device = functools.partial(_splash, reach, soft_cap, kernels.platform != "tpu")
    run = on_one_device if kernels.spread is None else kernels.spread(on_one_device)
    return run(query, key, value) if mask is None else run(query, key, value, mask.valid.astype(jnp.int32))


def _splash(
    reach: tuple[int, ...],
    soft_cap: float | None,
    interpret: bool,
    query: Float[Array, "b q h f"],
    key: Float[Array, "b k g f"],
    value: Float[Array, "b k g f"],
    segments: Int[Array, "b k"] | None = None,
) -> Float[Array, "b q h f"]:
    """Lengths are padded to whole blocks: no query reaches a padded key, and padded queries are cut off."""
    (_, num_queries, heads, width), num_keys = query.shape, key.shape[1]
    query_padding, key_padding = -num_queries % LANES, -num_keys % LANES
    reaches = np.array(reach + (num_keys,) * query_padding)
    near = np.arange(num_keys + key_padding) < reaches[:, None]
    kernel = splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask([splash_attention.NumpyMask(near)] * heads),
        block_sizes=_blocks(*near.shape),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=soft_cap,
        interpret=interpret,
    )
    query = padded((query * width**-0.5).astype(query.dtype), query_padding)
    key, value = padded(key, key_padding), padded(value, key_padding)
    arrays: list[Any] = [array.swapaxes(1, 2) for array in (query, key, value)]
    if segments is not None:
        own = [jnp.pad(segments, ((0, 0), (0, more)), constant_values=1) for more in (query_padding, key_padding)]
        arrays.append(splash_attention.SegmentIds(*own))
    return jax.vmap(lambda *arrays: kernel(*arrays))(*arrays).swapaxes(1, 2)[:, :num_queries]


def _blocks(num_queries: int, num_keys: int) -> splash_attention.BlockSizes:
    """The largest that divide the lengths."""
    q, kv = (
        max(size for size in range(LANES, LARGEST_BLOCK + 1, LANES) if length % size == 0)
        for length in (num_queries, num_keys)
    )
    return splash_attention.BlockSizes(
        block_q=q, block_kv=kv, block_q_dkv=q, block_kv_dkv=kv, block_q_dq=q, block_kv_dq=kv
    )
