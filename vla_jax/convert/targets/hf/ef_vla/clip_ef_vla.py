"""CLIP, and a ViT in the place of its vision half; names are those of Hugging Face's CLIP files.

Axes: b batch, y x pixels, t text tokens, n patches, d width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .transformer_vla import Encoder, causal


def unit(x: Tensor) -> Tensor:
    return functional.normalize(x, dim=-1, eps=1e-12)


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
        """Tokens [b, s, d]: class and register tokens, then patches, row-major."""
        x = self.pre_layrnorm(self.embeddings(images))
        if self.last_attention is None:
            x = self.encoder(x)
        else:
            for layer in self.encoder.layers[:-1]:
                x = layer(x)
            x = self.encoder.layers[-1].attention_output(x, self.last_attention)
        return self.post_layernorm(x)


class ProjectedVision(nn.Module):
    """A ViT and its projection into the text space."""

    def __init__(self, config: dict[str, Any], out_width: int, last_attention: str | None = None):
        super().__init__()
        self.vision_model = VisionTransformer(config, last_attention)
        self.visual_projection = nn.Linear(config["width"], out_width, bias=False)

    def patch_features(self, images: Tensor) -> Tensor:
        """Unit-length features of every patch [b, n, d]; images are uint8 RGB [b, y, x, 3]."""
        return unit(self.visual_projection(self.vision_model(images)[:, self.vision_model.num_prefix :]))


class Clip(nn.Module):
    """CLIP's text half, and its vision half where there is one; `features` says what is read of them."""

    def __init__(self, config: dict[str, Any], features: dict[str, Any]):
        super().__init__()
        self.features = features
        width = config["projection_width"]
        self.text_model = TextTransformer(config["text"])
        self.text_projection = nn.Linear(config["text"]["width"], width, bias=False)
        if config["vision"] is not None:
            self.vision_model = VisionTransformer(config["vision"], features.get("last_attention"))
            self.visual_projection = nn.Linear(config["vision"]["width"], width, bias=False)
            self.logit_scale = nn.Parameter(torch.tensor(0.0))  # of no use here; kept as it came

    @property
    def is_summary(self) -> bool:
        """True: one embedding a picture and a text; False: all their tokens."""
        return self.features["type"] == "ClipEmbeddings"

    def patch_features(self, images: Tensor) -> Tensor:
        """Unit length [b, n, d], of every patch, or of the picture (n = 1); images are uint8 RGB [b, y, x, 3]."""
        if self.is_summary:
            return unit(self.visual_projection(self.vision_model(images)[:, :1]))
        return ProjectedVision.patch_features(self, images)

    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Unit length [b, t, d], of every token, or of the last valid one (t = 1)."""
        last = (mask.sum(dim=1, keepdim=True) - 1).clamp(min=0)
        if self.is_summary:
            tokens = self.text_projection(self.text_model(ids, mask))
            return unit(tokens.take_along_dim(last[..., None], dim=1))
        if self.features["padding"] == "end":
            tokens = self.text_model(torch.where(mask, ids, ids.gather(1, last)), mask)
        else:
            tokens = self.text_model(torch.where(mask, ids, 0), torch.ones_like(mask))
        if self.features["double_text_norm"]:
            tokens = self.text_model.final_layer_norm(tokens)
        return unit(self.text_projection(tokens))
