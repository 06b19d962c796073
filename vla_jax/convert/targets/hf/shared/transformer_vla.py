"""Building blocks of our policies: plain `nn.Linear` and `nn.LayerNorm`, so that adapters find every projection.

Axes: b batch, q queries, k keys, d width.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


def activate(x: Tensor, name: str) -> Tensor:
    if name == "quick_gelu":  # what OpenAI's CLIP weights were trained with
        return x * torch.sigmoid(1.702 * x)
    if name in ("gelu", "gelu_tanh"):
        return functional.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")
    if name == "relu":
        return functional.relu(x)
    raise ValueError(f"unknown activation {name!r}")


def sinusoidal(length: int, width: int, like: Tensor, layout: str = "interleaved") -> Tensor:
    """[length, width]: sin in even columns, cos in odd ones, or halves of them; computed in float64, never stored."""
    angles = np.arange(length)[:, None] * np.exp(np.arange(0, width, 2) * (-np.log(10_000.0) / width))[None]
    order = -1 if layout == "interleaved" else 1
    return torch.from_numpy(np.stack([np.sin(angles), np.cos(angles)], axis=order).reshape(length, width)).to(like)


def rotate(x: Tensor, positions: Tensor, theta: float = 10_000.0) -> Tensor:
    """Rotary positions [n] on [b, h, n, f], in halves: channel i turns with channel i + f / 2."""
    half = x.shape[-1] // 2
    angles = positions.double()[:, None] * theta ** (-torch.arange(half, device=x.device).double() / half)
    cos, sin = angles.cos().float(), angles.sin().float()
    first, second = x.float().split(half, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def causal(valid: Tensor) -> Tensor:
    """bool [b, t] to [b, t, t], True = may attend: to valid positions up to one's own."""
    length = valid.shape[1]
    return torch.ones(length, length, dtype=torch.bool, device=valid.device).tril() & valid[:, None]


class Attention(nn.Module):
    def __init__(self, width: int, num_heads: int, memory_width: int | None = None):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(memory_width or width, width)
        self.v_proj = nn.Linear(memory_width or width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        scores: str = "qk",
        positions: Tensor | None = None,
    ) -> Tensor:
        """`mask` is [q, k] or [b, q, k], True = may attend. `scores="qq"`: queries stand in for keys.

        `positions` [n] turn queries and keys of self-attention; None: nothing is turned.
        """
        memory = x if memory is None else memory
        query = self._heads(self.q_proj(x))
        key = query if scores == "qq" else self._heads(self.k_proj(memory))
        if positions is not None:
            query, key = rotate(query, positions), rotate(key, positions)
        mask = mask[:, None] if mask is not None and mask.ndim == 3 else mask
        mixed = functional.scaled_dot_product_attention(query, key, self._heads(self.v_proj(memory)), attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Mlp(nn.Module):
    def __init__(self, width: int, hidden_width: int, activation: str):
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(width, hidden_width)
        self.fc2 = nn.Linear(hidden_width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(activate(self.fc1(x), self.activation))


class Block(nn.Module):
    """Pre-norm self-attention and perceptron."""

    def __init__(self, config: dict[str, Any], width: int):
        super().__init__()
        epsilon = config.get("epsilon", 1e-5)
        self.self_attn = Attention(width, config["num_heads"])
        self.layer_norm1 = nn.LayerNorm(width, eps=epsilon)
        self.mlp = Mlp(width, config["mlp_width"], config.get("activation", "gelu"))
        self.layer_norm2 = nn.LayerNorm(width, eps=epsilon)
        self.dropout = nn.Dropout(config.get("dropout_rate", 0.0))

    def forward(self, x: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        x = x + self.dropout(self.self_attn(self.layer_norm1(x), mask=mask, positions=positions))
        return x + self.dropout(self.mlp(self.layer_norm2(x)))

    def attention_output(self, x: Tensor, scores: str) -> Tensor:
        """X_attn: what attention adds to the residual stream."""
        return self.self_attn(self.layer_norm1(x), scores=scores)


class Encoder(nn.Module):
    def __init__(self, config: dict[str, Any], width: int):
        super().__init__()
        self.layers = nn.ModuleList(Block(config, width) for _ in range(config["num_layers"]))

    def forward(self, x: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask=mask, positions=positions)
        return x


class PoolingBlock(nn.Module):
    """Cross-attention from queries into tokens, and perceptron; pre-norm, or going on from the normalised queries."""

    def __init__(self, config: dict[str, Any], width: int, memory_width: int):
        super().__init__()
        epsilon = config.get("epsilon", 1e-5)
        self.is_normed = config.get("residual") == "normed"
        self.cross_attn = Attention(width, config["num_heads"], memory_width)
        self.layer_norm1 = nn.LayerNorm(width, eps=epsilon)
        self.mlp = Mlp(width, config["mlp_width"], config.get("activation", "gelu"))
        self.layer_norm2 = nn.LayerNorm(width, eps=epsilon)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        queries = self.layer_norm1(x)
        x = (queries if self.is_normed else x) + self.cross_attn(queries, memory, mask=mask)
        normed = self.layer_norm2(x)
        return (normed if self.is_normed else x) + self.mlp(normed)


class AttentionPooling(nn.Module):
    """A few learned queries read a set of tokens and become one vector."""

    def __init__(self, config: dict[str, Any], token_width: int):
        super().__init__()
        width = config["out_width"] // config["num_queries"]
        self.queries = nn.Parameter(torch.zeros(config["num_queries"], width))
        self.layers = nn.ModuleList(PoolingBlock(config, width, token_width) for _ in range(config["num_blocks"]))
        epsilon = config.get("epsilon", 1e-5)
        self.final_norm = nn.LayerNorm(width, eps=epsilon) if config.get("final_norm") else nn.Identity()

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Args: tokens: [b, k, d]; mask: [b, k]."""
        x = self.queries.expand(len(tokens), -1, -1)
        for layer in self.layers:
            x = layer(x, tokens, None if mask is None else mask[:, None].expand(-1, x.shape[1], -1))
        return self.final_norm(x).flatten(1)
