"""The vision expert, transformers' DINOv3ViTModel, and what brings its features into the language model.

Axes: b batch, e tokens of the expert (class and registers first), k shared ones, n tokens of the language model,
d width, h heads, f head width.
Source: DeepVision-VLA (arXiv 2603.15618) Eq. 2-4 and Figure 3.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import rotate_half

from .qwen_vla import Qwen, attend

EPSILON = 1e-5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Rotation = tuple[Tensor, Tensor]


def build_expert(config: dict[str, Any]) -> DINOv3ViTModel:
    return DINOv3ViTModel(
        DINOv3ViTConfig(
            hidden_size=config["width"],
            num_hidden_layers=config["num_layers"],
            num_attention_heads=config["num_heads"],
            intermediate_size=config["mlp_width"],
            use_gated_mlp=config["gated_mlp"],
            hidden_act="silu" if config["gated_mlp"] else "gelu",
            num_register_tokens=config["num_registers"],
            rope_theta=config["theta"],
            image_size=config["image_size"],
            patch_size=config["patch_size"],
            layer_norm_eps=EPSILON,
            query_bias=True,
            key_bias=False,
            value_bias=True,
            proj_bias=True,
            mlp_bias=True,
            # positions are not disturbed in training, as in JAX
            pos_embed_shift=None,
            pos_embed_jitter=None,
            pos_embed_rescale=None,
        )
    )


def prefix_length(expert: DINOv3ViTModel) -> int:
    return 1 + expert.config.num_register_tokens


def normalized(images: Tensor) -> Tensor:
    """uint8 [b, y, x, 3] to what the expert reads, [b, 3, y, x]."""
    mean, std = (torch.tensor(values, device=images.device) for values in (MEAN, STD))
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def grid_of(expert: DINOv3ViTModel, images: Tensor) -> tuple[int, int]:
    size = expert.config.patch_size
    return images.shape[1] // size, images.shape[2] // size


def attention_of_class(expert: DINOv3ViTModel, index: int, x: Tensor, rotation: Rotation, pruning: dict) -> Tensor:
    """[b, patches]: where the class token looks in a layer."""
    layer = expert.model.layer[index]
    own, normed, prefix = layer.attention, layer.norm1(x), prefix_length(expert)
    query = own.q_proj(normed[:, :1]).unflatten(-1, (own.num_heads, -1)).transpose(1, 2)
    key = own.k_proj(normed).unflatten(-1, (own.num_heads, -1)).transpose(1, 2)
    turned = rotated(key[:, :, prefix:], rotation)
    scores = query.float() @ torch.cat([key[:, :, :prefix], turned], dim=2).float().transpose(2, 3)
    weights = torch.softmax(scores * own.scaling, dim=-1)[..., prefix:]
    return reduced(weights, pruning)[:, 0]


def reduced(weights: Tensor, pruning: dict[str, Any]) -> Tensor:
    """[b, h, r, v] to [b, r, v]."""
    if pruning["normalization"] == "visual":
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return weights.mean(1) if pruning["head_reduction"] == "mean" else weights.amax(1)


def rotated(x: Tensor, rotation: Rotation) -> Tensor:
    """Args: x: [b, h, k, f]. rotation: cos and sin, [k, f] or [b, k, f]."""
    cos, sin = (angle[:, None] if angle.ndim == 3 else angle for angle in rotation)
    return x * cos + rotate_half(x) * sin


class Alignment(nn.Module):
    """A linear layer, and a layer norm over runs of `norm_width` of what it gives."""

    def __init__(self, in_width: int, out_width: int, norm_width: int):
        super().__init__()
        self.linear = nn.Linear(in_width, out_width)
        self.norm = nn.LayerNorm(norm_width, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        aligned = self.linear(x)
        return self.norm(aligned.unflatten(-1, (-1, self.norm.normalized_shape[0]))).flatten(-2)


class Aligner(nn.Module):
    """Of one layer: the expert's projections in the language model's heads."""

    def __init__(self, config: dict[str, Any], decoder: dict[str, Any], width: int):
        """Args: config: `integration.attention`. decoder: `vlm.language.decoder`. width: of the expert."""
        super().__init__()
        self.config = config
        self.features = decoder["head_width"]
        heads = {"query": decoder["num_heads"], "key": decoder["num_key_value_heads"]}
        is_literal = config["expert_attention"] == "aligned"

        def part(name: str) -> Alignment:
            if config["align_to"] == "hidden":
                return Alignment(width, decoder["width"], decoder["width"])
            return Alignment(width, heads[name] * self.features, self.features)

        self.query = part("query") if is_literal else None
        self.key, self.value = part("key"), part("key")
        self.out = nn.Linear(heads["query"] * self.features, width) if is_literal else None
        self.bias = None if config["bias_init"] is None else nn.Parameter(torch.tensor(float(config["bias_init"])))

    def key_value(self, key: Tensor, value: Tensor, attention: nn.Module, rotation: Rotation | None):
        """[b, g, k, f] each. Args: key, value: of the expert, [b, k, width], not rotated."""
        key = self._in_heads(self.key(key), attention.k_proj)
        key = (attention.k_norm(key) if self._norms_heads else key).transpose(1, 2)
        value = self._in_heads(self.value(value), attention.v_proj).transpose(1, 2)
        return key if rotation is None else rotated(key, rotation), value

    def queries(self, query: Tensor, attention: nn.Module, rotation: Rotation | None) -> Tensor:
        query = self._in_heads(self.query(query), attention.q_proj)
        query = (attention.q_norm(query) if self._norms_heads else query).transpose(1, 2)
        return query if rotation is None else rotated(query, rotation)

    @property
    def _norms_heads(self) -> bool:
        return self.config["key_norm"] or self.config["align_to"] == "hidden"

    def _in_heads(self, aligned: Tensor, projection: nn.Module) -> Tensor:
        if self.config["align_to"] == "hidden":
            aligned = projection(aligned)
        return aligned.unflatten(-1, (-1, self.features))


def shared_layer(
    qwen: Qwen,
    index: int,
    x: Tensor,
    rotation: Rotation,
    mask: Tensor,
    aligner: Aligner,
    shared: tuple[Tensor, Tensor],
) -> Tensor:
    """A layer of the language model. Args: mask: bool [b, n, k + n]. shared: aligned keys and values."""
    query, key, value = qwen.projections(index, x, rotation)
    bias = torch.where(mask, 0.0, torch.finfo(x.dtype).min).to(x.dtype)
    if aligner.bias is not None:
        is_shared = torch.arange(mask.shape[2], device=x.device) < shared[0].shape[2]
        bias = torch.where(mask & is_shared, aligner.bias.to(x.dtype), bias)
    key, value = torch.cat([shared[0], key], dim=2), torch.cat([shared[1], value], dim=2)
    return qwen.finish(index, x, attend(query, key, value, bias[:, None]))


def literal_layer(
    layer: nn.Module, e: Tensor, aligner: Aligner, attention: nn.Module, rotation: Rotation | None
) -> Tensor:
    """A layer of the expert that attends in the language model's heads."""
    normed, own = layer.norm1(e), layer.attention
    query = aligner.queries(own.q_proj(normed), attention, rotation)
    key, value = aligner.key_value(own.k_proj(normed), own.v_proj(normed), attention, rotation)
    back = aligner.out(attend(query, key, value).transpose(1, 2).flatten(2))
    e = e + layer.layer_scale1(own.o_proj(back))
    return e + layer.layer_scale2(layer.mlp(layer.norm2(e)))


def averaged(tokens: Tensor, grid: tuple[int, int], coarser: tuple[int, int]) -> Tensor:
    """Means over equal rectangles of the grid, [b, m, width]."""
    cells = tokens.unflatten(1, (coarser[0], grid[0] // coarser[0], coarser[1], grid[1] // coarser[1]))
    return cells.mean(dim=(2, 4)).flatten(1, 2)


def take(x: Tensor, places: Tensor) -> Tensor:
    """Of [b, e, ...] the rows [b, k] along the second axis."""
    index = places.reshape(*places.shape, *(1,) * (x.ndim - 2)).expand(*places.shape, *x.shape[2:])
    return x.gather(1, index)
