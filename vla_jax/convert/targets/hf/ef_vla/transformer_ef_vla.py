"""Building blocks of EF-VLA: plain `nn.Linear` and `nn.LayerNorm`, so that adapters find every projection.

Axes: b batch, q queries, k keys, d width. Names of the CLIP parts are those of Hugging Face's CLIP files.
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


def sinusoidal(length: int, width: int, like: Tensor) -> Tensor:
    """[length, width]: sin in even columns, cos in odd ones; computed in float64, never stored."""
    angles = np.arange(length)[:, None] * np.exp(np.arange(0, width, 2) * (-np.log(10_000.0) / width))[None]
    return torch.from_numpy(np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, width)).to(like)


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
        self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None, scores: str = "qk"
    ) -> Tensor:
        """`mask` is [q, k] or [b, q, k], True = may attend. `scores="qq"`: queries stand in for keys."""
        memory = x if memory is None else memory
        query = self._heads(self.q_proj(x))
        key = query if scores == "qq" else self._heads(self.k_proj(memory))
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

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.dropout(self.self_attn(self.layer_norm1(x), mask=mask))
        return x + self.dropout(self.mlp(self.layer_norm2(x)))

    def attention_output(self, x: Tensor, scores: str) -> Tensor:
        """X_attn: what attention adds to the residual stream."""
        return self.self_attn(self.layer_norm1(x), scores=scores)


class Encoder(nn.Module):
    def __init__(self, config: dict[str, Any], width: int):
        super().__init__()
        self.layers = nn.ModuleList(Block(config, width) for _ in range(config["num_layers"]))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask=mask)
        return x


class TextEmbeddings(nn.Module):
    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.token_embedding = nn.Embedding(config["vocab_size"], config["width"])
        self.position_embedding = nn.Embedding(config["max_length"], config["width"])

    def forward(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class TextTransformer(nn.Module):
    """CLIP's text encoder: causal, padding on the right and masked."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config, config["width"])
        self.final_layer_norm = nn.LayerNorm(config["width"], eps=config["epsilon"])

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.final_layer_norm(self.encoder(self.embeddings(ids), mask=causal(mask)))


class VisionEmbeddings(nn.Module):
    def __init__(self, config: dict[str, Any]):
        super().__init__()
        width, size = config["width"], config["patch_size"]
        self.mean, self.std = config["mean"], config["std"]
        self.patch_embedding = nn.Conv2d(3, width, size, stride=size, bias=config["patch_bias"])
        self.class_embedding = nn.Parameter(torch.zeros(width)) if config["class_token"] else None
        registers = config["num_registers"]
        self.register_tokens = nn.Parameter(torch.zeros(registers, width)) if registers else None
        positions = (config["image_size"] // size) ** 2 + int(config["class_token"])
        self.position_embedding = nn.Embedding(positions, width)

    def forward(self, images: Tensor) -> Tensor:
        """Args: images: uint8 RGB [b, y, x, 3]."""
        mean, std = (torch.tensor(numbers, device=images.device) for numbers in (self.mean, self.std))
        pixels = (images.float() / 255.0 - mean) / std
        patches = self.patch_embedding(pixels.permute(0, 3, 1, 2).to(self.patch_embedding.weight.dtype))
        x = patches.flatten(2).transpose(1, 2)
        prefix = 0
        if self.class_embedding is not None:
            x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
            prefix = 1
        x = x + self.position_embedding.weight
        if self.register_tokens is not None:
            registers = self.register_tokens.expand(len(x), -1, -1)
            x = torch.cat([x[:, :prefix], registers, x[:, prefix:]], dim=1)
        return x


class VisionTransformer(nn.Module):
    """A ViT. With `last_attention` it gives X_attn of the last block instead of the block's output (ClearCLIP)."""

    def __init__(self, config: dict[str, Any], last_attention: str | None):
        super().__init__()
        self.last_attention = last_attention
        self.num_prefix = int(config["class_token"]) + config["num_registers"]
        width, epsilon = config["width"], config["epsilon"]
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(width, eps=epsilon) if config["pre_norm"] else nn.Identity()
        self.encoder = Encoder(config, width)
        self.post_layernorm = nn.LayerNorm(width, eps=epsilon)

    def forward(self, images: Tensor) -> Tensor:
        """Patch tokens [b, n, d], row-major, without class and register tokens."""
        x = self.pre_layrnorm(self.embeddings(images))
        if self.last_attention is None:
            x = self.encoder(x)
        else:
            for layer in self.encoder.layers[:-1]:
                x = layer(x)
            x = self.encoder.layers[-1].attention_output(x, self.last_attention)
        return self.post_layernorm(x)[:, self.num_prefix :]


class ProjectedVision(nn.Module):
    """A ViT and its projection into the text space."""

    def __init__(self, config: dict[str, Any], out_width: int, last_attention: str | None = None):
        super().__init__()
        self.vision_model = VisionTransformer(config, last_attention)
        self.visual_projection = nn.Linear(config["width"], out_width, bias=False)

    def patch_features(self, images: Tensor) -> Tensor:
        """Unit-length features of every patch [b, n, d]; images are uint8 RGB [b, y, x, 3]."""
        return functional.normalize(self.visual_projection(self.vision_model(images)), dim=-1, eps=1e-12)


class Clip(nn.Module):
    """CLIP's text half, and its vision half where there is one."""

    def __init__(self, config: dict[str, Any], last_attention: str):
        super().__init__()
        width = config["projection_width"]
        self.text_model = TextTransformer(config["text"])
        self.text_projection = nn.Linear(config["text"]["width"], width, bias=False)
        if config["vision"] is not None:
            self.vision_model = VisionTransformer(config["vision"], last_attention)
            self.visual_projection = nn.Linear(config["vision"]["width"], width, bias=False)
            self.logit_scale = nn.Parameter(torch.tensor(0.0))  # of no use here; kept as it came

    patch_features = ProjectedVision.patch_features

    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Unit-length features of every token [b, t, d]."""
        return functional.normalize(self.text_projection(self.text_model(ids, mask)), dim=-1, eps=1e-12)


class PoolingBlock(nn.Module):
    """Pre-norm cross-attention from queries into tokens, and perceptron."""

    def __init__(self, config: dict[str, Any], width: int, memory_width: int):
        super().__init__()
        self.cross_attn = Attention(width, config["num_heads"], memory_width)
        self.layer_norm1 = nn.LayerNorm(width)
        self.mlp = Mlp(width, config["mlp_width"], "gelu")
        self.layer_norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.cross_attn(self.layer_norm1(x), memory, mask=mask)
        return x + self.mlp(self.layer_norm2(x))


class AttentionPooling(nn.Module):
    """A few learned queries read a set of tokens and become one vector."""

    def __init__(self, config: dict[str, Any], token_width: int):
        super().__init__()
        width = config["out_width"] // config["num_queries"]
        self.queries = nn.Parameter(torch.zeros(config["num_queries"], width))
        self.layers = nn.ModuleList(PoolingBlock(config, width, token_width) for _ in range(config["num_blocks"]))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Args: tokens: [b, k, d]; mask: [b, k]."""
        x = self.queries.expand(len(tokens), -1, -1)
        for layer in self.layers:
            x = layer(x, tokens, None if mask is None else mask[:, None].expand(-1, x.shape[1], -1))
        return x.flatten(1)
