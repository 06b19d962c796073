"""OpenVLA's vision-language model: DINOv2 + SigLIP, a projector, Llama. Names are those of OpenVLA's released files.

Axes: b batch, y x pixels, m picture tokens, n text tokens, q further tokens, s a sequence, d width.
The towers are timm's VisionTransformer as far as they are used, without timm: features are what the block before the
last gave. The last block, the norms and SigLIP's pooling are kept as they came and take no part.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM

from .llama_vla import llama_config

DINO_NORMALIZATION = ((0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375))
SIGLIP_NORMALIZATION = ((0.5,) * 3, (0.5,) * 3)
TOWERS: dict[str, dict[str, int]] = {
    "vit_large_patch14_reg4_dinov2.lvd142m": {
        "width": 1024, "num_layers": 24, "num_heads": 16, "mlp_width": 4096, "patch_size": 14, "num_registers": 4,
    },
    "vit_so400m_patch14_siglip_224": {
        "width": 1152, "num_layers": 27, "num_heads": 16, "mlp_width": 4304, "patch_size": 14,
    },
    "vit_so400m_patch14_siglip_384": {
        "width": 1152, "num_layers": 27, "num_heads": 16, "mlp_width": 4304, "patch_size": 14,
    },
    "tiny_dinov2": {
        "width": 20, "num_layers": 3, "num_heads": 2, "mlp_width": 60, "patch_size": 8, "num_registers": 3,
    },
    "tiny_siglip": {"width": 24, "num_layers": 4, "num_heads": 3, "mlp_width": 44, "patch_size": 8},
}  # fmt: skip
"""By timm's names; the tiny ones are of twins for a CPU."""


class TowerAttention(nn.Module):
    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class TowerMlp(nn.Module):
    def __init__(self, width: int, hidden_width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_width)
        self.fc2 = nn.Linear(hidden_width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_factor


class TowerBlock(nn.Module):
    def __init__(self, sizes: dict[str, int], is_scaled: bool):
        super().__init__()
        width = sizes["width"]
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = TowerAttention(width, sizes["num_heads"])
        self.ls1 = LayerScale(width) if is_scaled else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = TowerMlp(width, sizes["mlp_width"])
        self.ls2 = LayerScale(width) if is_scaled else nn.Identity()

    def forward(self, x: Tensor, film: "Film | None" = None, condition: Tensor | None = None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        x = x if film is None else film(x, condition)
        return x + self.ls2(self.mlp(self.norm2(x)))


class Film(nn.Module):
    """x (1 + gamma) + beta, both of a condition [b, c]."""

    def __init__(self, condition_width: int, width: int):
        super().__init__()
        self.scale = nn.Linear(condition_width, width)
        self.shift = nn.Linear(condition_width, width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return x * (1 + self.scale(condition)[:, None]) + self.shift(condition)[:, None]


class TowerPooling(nn.Module):
    """SigLIP's; of no use here."""

    def __init__(self, sizes: dict[str, int]):
        super().__init__()
        width = sizes["width"]
        self.latent = nn.Parameter(torch.zeros(1, 1, width))
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-6)
        self.mlp = TowerMlp(width, sizes["mlp_width"])


class PatchProjection(nn.Module):
    def __init__(self, sizes: dict[str, int]):
        super().__init__()
        self.proj = nn.Conv2d(3, sizes["width"], sizes["patch_size"], stride=sizes["patch_size"])


class Tower(nn.Module):
    def __init__(self, name: str, image_size: int):
        super().__init__()
        sizes = TOWERS[name]
        width, self.num_registers = sizes["width"], sizes.get("num_registers", 0)
        is_dino = self.num_registers > 0
        self.normalization = DINO_NORMALIZATION if is_dino else SIGLIP_NORMALIZATION
        self.patch_embed = PatchProjection(sizes)
        self.pos_embed = nn.Parameter(torch.zeros(1, (image_size // sizes["patch_size"]) ** 2, width))
        if is_dino:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            self.reg_token = nn.Parameter(torch.zeros(1, self.num_registers, width))
        self.blocks = nn.ModuleList(TowerBlock(sizes, is_dino) for _ in range(sizes["num_layers"]))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        if not is_dino:
            self.attn_pool = TowerPooling(sizes)

    def forward(self, images: Tensor, films: nn.ModuleList | None = None, condition: Tensor | None = None) -> Tensor:
        """Patches [b, m, d] of uint8 RGB pictures [b, y, x, 3]."""
        mean, std = (torch.tensor(numbers, device=images.device) for numbers in self.normalization)
        pixels = ((images.float() / 255.0 - mean) / std).permute(0, 3, 1, 2)
        x = self.patch_embed.proj(pixels.to(self.pos_embed.dtype)).flatten(2).transpose(1, 2) + self.pos_embed
        prefix = 0
        if self.num_registers:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.reg_token.expand(len(x), -1, -1), x], dim=1)
            prefix = 1 + self.num_registers
        for number, block in enumerate(self.blocks[:-1]):
            x = block(x) if films is None else block(x, films[number], condition)
        return x[:, prefix:]


class VisionBackbone(nn.Module):
    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.featurizer = Tower(config["dino"], config["image_size"])
        self.fused_featurizer = Tower(config["siglip"], config["image_size"])


class Films(nn.Module):
    """Of both towers' blocks but the last (OpenVLA-OFT)."""

    def __init__(self, config: dict[str, Any], condition_width: int):
        super().__init__()
        self.dino, self.siglip = (
            nn.ModuleList(Film(condition_width, sizes["width"]) for _ in range(sizes["num_layers"] - 1))
            for sizes in (TOWERS[config["dino"]], TOWERS[config["siglip"]])
        )


class Projector(nn.Module):
    def __init__(self, in_width: int, out_width: int):
        super().__init__()
        self.fc1 = nn.Linear(in_width, 4 * in_width)
        self.fc2 = nn.Linear(4 * in_width, out_width)
        self.fc3 = nn.Linear(out_width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(functional.gelu(self.fc2(functional.gelu(self.fc1(x)))))


class Prismatic(nn.Module):
    """Begin of text, pictures, the rest of the text."""

    def __init__(self, config: dict[str, Any]):
        """Args: config: `vlm` of config.json."""
        super().__init__()
        decoder = config["language"]["decoder"]
        self.vision_backbone = VisionBackbone(config["vision"])
        width = sum(TOWERS[config["vision"][name]]["width"] for name in ("dino", "siglip"))
        self.projector = Projector(width, decoder["width"])
        self.language_model = LlamaForCausalLM(llama_config(decoder))

    def picture_tokens(self, images: Tensor, films: Films | None = None, condition: Tensor | None = None) -> Tensor:
        """[b, m, d] of uint8 RGB pictures [b, y, x, 3]."""
        vision = self.vision_backbone
        dino = vision.featurizer(images, None if films is None else films.dino, condition)
        siglip = vision.fused_featurizer(images, None if films is None else films.siglip, condition)
        return self.projector(torch.cat([dino, siglip], dim=-1))

    def words(self, ids: Tensor, valid: Tensor | None = None) -> Tensor:
        """[b, n, d]; ids of padding may be anything."""
        ids = ids if valid is None else torch.where(valid, ids, 0)
        return self.language_model.get_input_embeddings()(ids)

    def prompt(self, ids: Tensor, valid: Tensor, pictures: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings [b, s, d] and which of them are valid [b, s]. `pictures` stand behind the first token."""
        words = self.words(ids, valid)
        x = torch.cat([words[:, :1], pictures.to(words.dtype), words[:, 1:]], dim=1)
        return x, torch.cat([valid[:, :1], seen, valid[:, 1:]], dim=1)

    def read(self, x: Tensor, valid: Tensor, *, is_causal: bool, cache: Any = None) -> tuple[Tensor, Any]:
        """Outputs [b, q, d] of the last q tokens, and the cache with them; those before them are in `cache`.

        Args: x: [b, q, d]. valid: of the whole sequence [b, s]; positions count valid tokens.
        """
        length, count = valid.shape[1], x.shape[1]
        positions = (valid.long().cumsum(dim=1) - 1).clamp(min=0)
        may_attend = valid[:, None].expand(-1, length, -1)
        if is_causal:
            may_attend = may_attend & torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        may_attend = may_attend | torch.eye(length, dtype=torch.bool, device=x.device)  # so that no row is empty
        out = self.language_model.model(
            inputs_embeds=x,
            attention_mask=may_attend[:, None, -count:],
            position_ids=positions[:, -count:],
            past_key_values=cache,
            use_cache=is_causal,
        )
        return out.last_hidden_state, out.past_key_values

    def logits(self, outputs: Tensor) -> Tensor:
        return self.language_model.lm_head(outputs)


def last_valid(valid: Tensor) -> Tensor:
    """[b]: the place of each row's last valid token."""
    places = torch.arange(valid.shape[1], device=valid.device)
    return torch.where(valid, places, 0).amax(dim=1)


def outputs_before(outputs: Tensor, valid: Tensor, count: int) -> Tensor:
    """[b, count, d]: what predicts the first `count` tokens behind a prompt. Args: valid: of the prompt [b, n]."""
    rows = torch.arange(len(outputs), device=outputs.device)
    first, length = outputs[rows, last_valid(valid)][:, None], valid.shape[1]
    return torch.cat([first, outputs[:, length : length + count - 1]], dim=1)
