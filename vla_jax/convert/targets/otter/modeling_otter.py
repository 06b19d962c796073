"""EF-VLA with the tensor names of its published PyTorch code (`OTTER.state_dict()`), computing what that code computes.

Axes: b batch, w window (time steps, padded on the right), t text tokens, n patches, d shared width of text and vision,
h horizon, a action. Cameras count in the order of their names.
"""

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .configuration_otter import OtterConfig
from .modeling_vla import VlaModel

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
MAX_POSITIONS = 32


class QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ClipBlock(nn.Module):
    def __init__(self, width: int, num_heads: int, mlp_width: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.c_fc = nn.Linear(width, mlp_width)
        self.mlp.gelu = QuickGelu()
        self.mlp.c_proj = nn.Linear(mlp_width, width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention_output(x, mask)
        return x + self.mlp(self.ln_2(x))

    def attention_output(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """X_attn: what attention adds to the residual stream."""
        x = self.ln_1(x)
        return self.attn(x, x, x, need_weights=False, attn_mask=mask)[0]


class ClipTransformer(nn.Module):
    def __init__(self, config: dict[str, Any]):
        super().__init__()
        sizes = config["width"], config["num_heads"], config["mlp_width"]
        self.resblocks = nn.Sequential(*(ClipBlock(*sizes) for _ in range(config["num_layers"])))


class ClipVision(nn.Module):
    def __init__(self, config: dict[str, Any], out_width: int):
        super().__init__()
        width, size = config["width"], config["patch_size"]
        self.conv1 = nn.Conv2d(3, width, size, stride=size, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros((config["image_size"] // size) ** 2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = ClipTransformer(config)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, out_width))

    def forward(self, images: Tensor) -> Tensor:
        """Unit-length features [b, n, d] of X_attn of the last block; images are uint8 RGB [b, y, x, 3]."""
        mean, std = (torch.tensor(numbers, device=images.device) for numbers in (MEAN, STD))
        pixels = ((images.float() / 255.0 - mean) / std).permute(0, 3, 1, 2)
        patches = self.conv1(pixels.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], dim=1)
        x = self.ln_pre(x + self.positional_embedding)
        *blocks, last = self.transformer.resblocks
        for block in blocks:
            x = block(x)
        return functional.normalize(self.ln_post(last.attention_output(x)[:, 1:]) @ self.proj, dim=-1)


class Clip(nn.Module):
    def __init__(self, config: dict[str, Any]):
        super().__init__()
        text, width = config["text"], config["projection_width"]
        self.visual = ClipVision(config["vision"], width)
        self.transformer = ClipTransformer(text)
        self.token_embedding = nn.Embedding(text["vocab_size"], text["width"])
        self.positional_embedding = nn.Parameter(torch.zeros(text["max_length"], text["width"]))
        self.ln_final = nn.LayerNorm(text["width"])
        self.text_projection = nn.Parameter(torch.zeros(text["width"], width))
        self.logit_scale = nn.Parameter(torch.tensor(0.0))  # of no use here; kept as it came

    def text_features(self, ids: Tensor) -> Tensor:
        """Unit-length features [b, t, d] of every token; nothing is masked but the future."""
        length = ids.shape[1]
        x = self.token_embedding(ids) + self.positional_embedding[:length]
        hidden = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
        for block in self.transformer.resblocks:
            x = block(x, hidden)
        return functional.normalize(self.ln_final(x) @ self.text_projection, dim=-1)


class TextAwareVisualExtraction(nn.Module):
    def __init__(self, num_patches: int, width: int):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.register_buffer("pos_emb", torch.zeros(num_patches, width))

    def forward(self, text: Tensor, patches: Tensor) -> Tensor:
        similarity = text.float() @ patches.float().transpose(1, 2)
        weights = torch.softmax(similarity / self.temperature.float().clamp(0, 100), dim=-1)
        return weights.to(patches.dtype) @ (patches + self.pos_emb)


class CrossAttentionBlock(nn.Module):
    def __init__(self, token_width: int, width: int, num_heads: int, mlp_width: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, num_heads, kdim=token_width, vdim=token_width, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.fc1 = nn.Linear(width, mlp_width)
        self.mlp.act = nn.GELU()
        self.mlp.fc2 = nn.Linear(mlp_width, width)
        self.q_layer_norm = nn.LayerNorm(width)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, tokens: Tensor, left_out: Tensor | None) -> Tensor:
        x = self.q_layer_norm(x)
        x = x + self.attention(x, tokens, tokens, key_padding_mask=left_out, need_weights=False)[0]
        x = self.layer_norm(x)
        return x + self.mlp(x)


class AttentionPooling(nn.Module):
    def __init__(self, config: dict[str, Any], token_width: int):
        super().__init__()
        width = config["out_width"] // config["num_queries"]
        self.query = nn.Parameter(torch.zeros(1, config["num_queries"], width))
        self.layer_norm = nn.LayerNorm(width)
        sizes = token_width, width, config["num_heads"], config["mlp_width"]
        self.blocks = nn.ModuleList(CrossAttentionBlock(*sizes) for _ in range(config["num_blocks"]))

    def forward(self, tokens: Tensor, left_out: Tensor | None = None) -> Tensor:
        """Args: left_out: bool [b, t], True where a token is not read."""
        x = self.query.expand(len(tokens), -1, -1)
        for block in self.blocks:
            x = block(x, tokens, left_out)
        return self.layer_norm(x).flatten(1)


class Perceptron(nn.Module):
    def __init__(self, *widths: int):
        super().__init__()
        layers = [module for i, o in itertools.pairwise(widths) for module in (nn.Linear(i, o), nn.ReLU())]
        self.mlp = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class RotaryPositions(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("inv_freq", torch.zeros(width // 2))
        self.register_buffer("emb", torch.zeros(MAX_POSITIONS, width))

    def forward(self, x: Tensor) -> Tensor:
        """Of [b, heads, w, f]. The first half of `emb` are sines, and stand where cosines are usual."""
        half = x.shape[-1] // 2
        cos, sin = self.emb[: x.shape[2]].float().split(half, dim=-1)
        first, second = x.float().split(half, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class CausalAttention(nn.Module):
    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.rope = RotaryPositions(width // num_heads)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(self.rope(query), self.rope(key), value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    def __init__(self, config: dict[str, Any]):
        super().__init__()
        width, mlp_width = config["width"], config["mlp_width"]
        self.attention = CausalAttention(width, config["num_heads"])
        self.intermediate = nn.Linear(width, mlp_width)
        self.output = nn.Linear(mlp_width, width)
        self.layernorm1 = nn.LayerNorm(width)
        self.layernorm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config["dropout_rate"])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.layernorm1(x), mask))
        return x + self.dropout(self.output(functional.gelu(self.intermediate(self.layernorm2(x)))))


class CausalTransformer(nn.Module):
    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.layers = nn.ModuleList(TransformerBlock(config) for _ in range(config["num_layers"]))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return x


class OtterModel(VlaModel):
    config_class = OtterConfig
    _no_split_modules = ("ClipBlock", "TransformerBlock")

    def __init__(self, config: OtterConfig):
        super().__init__(config)
        self.slots = sorted(config.cameras)
        vision, width = config.clip["vision"], config.clip["projection_width"]
        num_patches = (vision["image_size"] // vision["patch_size"]) ** 2
        self.clip_model = Clip(config.clip)
        self.text_pooling = AttentionPooling(config.text_pooling, width)
        self.visual_extraction = nn.ModuleList(TextAwareVisualExtraction(num_patches, width) for _ in self.slots)
        self.vision_poolings = nn.ModuleList(AttentionPooling(config.image_pooling, width) for _ in self.slots)
        proprio = config.proprio
        self.proprio_encoder = Perceptron(
            len(config.action_space["proprio"]), *proprio["hidden_widths"], proprio["out_width"]
        )
        parts = [config.text_pooling, *[config.image_pooling] * len(self.slots), proprio]
        trunk = config.trunk["width"]
        self.input_projection = nn.Linear(sum(part["out_width"] for part in parts), trunk)
        self.policy = CausalTransformer(config.trunk)
        self.action_head = Perceptron(trunk, trunk, math.prod(config.chunk_shape))
        self.post_init()

    def _disturbed(self, observation: dict[str, Any]) -> dict[str, Any]:
        """With the noise on proprio that training adds."""
        proprio = observation["proprio"]
        return observation | {"proprio": proprio + self.config.proprio_noise * torch.randn_like(proprio)}

    def _stages(self, observation: dict[str, Any]) -> dict[str, Tensor]:
        mask, valid = observation["attention_mask"], observation["timestep_mask"]
        batch, window = valid.shape
        text = self.clip_model.text_features(torch.where(mask, observation["input_ids"], 0))
        stages = {"text_features": text}
        left_out = self._left_out(mask)
        every = [t if t is None else t.repeat_interleave(window, dim=0) for t in (text, left_out)]
        features = {}
        for number, slot in enumerate(self.slots):
            patches = self.clip_model.visual(observation["images"][slot].flatten(0, 1))
            fused = self.visual_extraction[number](every[0], patches)
            pooled = self.vision_poolings[number](fused, every[1]).unflatten(0, (batch, window))
            features[slot] = pooled * observation["image_masks"][slot][..., None].to(text.dtype)
            stages |= {f"patch_features/{slot}": patches, f"fused_features/{slot}": fused}
        proprio = self.proprio_encoder(observation["proprio"].to(text.dtype))
        pooled_text = self.text_pooling(text, left_out)[:, None].expand(-1, window, -1)
        # The stage's order is the JAX policy's; the published code's is text, cameras, proprio.
        stages["step_tokens"] = torch.cat([proprio, *(features[s] for s in self.config.cameras), pooled_text], dim=-1)
        x = self.input_projection(torch.cat([pooled_text, *(features[s] for s in self.slots), proprio], dim=-1))
        causal = torch.ones(window, window, dtype=torch.bool, device=x.device).tril() & valid[:, None]
        itself = torch.eye(window, dtype=torch.bool, device=x.device)
        stages["trunk_output"] = self.policy(x, (causal | itself)[:, None])
        stages["actions"] = self.action_head(stages["trunk_output"]).unflatten(-1, self.config.chunk_shape).float()
        return stages

    def _left_out(self, mask: Tensor) -> Tensor | None:
        """Start, end and padding, where words alone are pooled (`pool_true_text`)."""
        if self.config.text_mask == "all":
            return None
        place = torch.arange(mask.shape[1], device=mask.device)
        words = mask & (place > 0) & (place < mask.sum(dim=1, keepdim=True) - 1)
        return ~torch.where(words.any(dim=1, keepdim=True), words, mask)
