"""CLIP, and a ViT in the place of its vision half; names are those of Hugging Face's CLIP files.

Axes: b batch, y x pixels, t text tokens, n patches, d width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .transformer_vla import Encoder, causal


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
