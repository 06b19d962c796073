"""DFA-VLA in PyTorch: words choose among visual tokens after the first blocks of Llama; the rest reads the chosen few.

Axes: b batch, w window (time steps, padded on the left), f frames, y x pixels, r c rows and columns of the grid,
k boxes, t text tokens, n tokens, d width, h horizon, a action.
Source: DFA-VLA section 3. Its encoder and language model are transformers' own; this file calls their layers.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Dinov2Model, LlamaModel, ViTModel

from .configuration_dfa_vla import DfaVlaConfig
from .fusion_dfa_vla import Contrast, Dfaf, Elementwise, FrameStack, Fused, Mvsm, masked_mean
from .llama_vla import llama_config
from .modeling_vla import VlaModel
from .processing_dfa_vla import DfaVlaProcessor
from .transformer_vla import Attention, Mlp, PoolingBlock, causal


class Part(NamedTuple):
    """A stretch of the language model's sequence: tokens [b, n, d], their mask and positions [b, n]."""

    tokens: Tensor
    mask: Tensor
    positions: Tensor


class Language(nn.Module):
    """Llama without its head, run over a range of layers with a mask and positions of our own."""

    def __init__(self, config: DfaVlaConfig):
        super().__init__()
        self.model = LlamaModel(llama_config(config.language["decoder"]))

    def forward(self, part: Part, span: tuple[int, int], mutual: bool) -> Part:
        """Args: mutual: every token sees all valid ones; else the earlier. The last layer is followed by the norm."""
        itself = torch.eye(part.mask.shape[1], dtype=torch.bool, device=part.mask.device)
        mask = ((part.mask[:, None] if mutual else causal(part.mask)) | itself)[:, None]
        x, layers = part.tokens, self.model.layers
        rotation = self.model.rotary_emb(x, position_ids=part.positions)
        for layer in layers[slice(*span)]:
            x = layer(x, attention_mask=mask, position_ids=part.positions, position_embeddings=rotation)
        return part._replace(tokens=self.model.norm(x) if span[1] == len(layers) else x)


class DecoderLayer(PoolingBlock):
    """Queries see one another, then a memory."""

    def __init__(self, config: dict[str, Any]):
        super().__init__(config, config["width"], config["width"])
        self.self_attn = Attention(config["width"], config["num_heads"])
        self.self_attn_norm = nn.LayerNorm(config["width"])

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        return super().forward(x + self.self_attn(self.self_attn_norm(x)), memory, mask)


class QueryReader(nn.Module):
    def __init__(self, config: dict[str, Any], memory_width: int, horizon: int):
        super().__init__()
        self.memory = nn.Linear(memory_width, config["width"])
        self.queries = nn.Parameter(torch.zeros(horizon, config["width"]))
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config["num_layers"]))
        self.norm = nn.LayerNorm(config["width"])

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        memory, x = self.memory(tokens), self.queries.expand(len(tokens), -1, -1)
        for layer in self.layers:
            x = layer(x, memory, mask[:, None].expand(-1, x.shape[1], -1))
        return self.norm(x)


class MeanReader(nn.Module):
    def __init__(self, config: dict[str, Any], memory_width: int, horizon: int):
        super().__init__()
        self.horizon = horizon
        self.mlp = Mlp(memory_width, config["mlp_width"], "gelu")
        self.mlp.fc2 = nn.Linear(config["mlp_width"], horizon * config["width"])

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.mlp(masked_mean(tokens, mask)).unflatten(-1, (self.horizon, -1))


class ActionHead(nn.Module):
    """Eq. 11: [b, 1, h, a] in -1..1."""

    def __init__(self, config: DfaVlaConfig):
        super().__init__()
        horizon, action_width = config.chunk_shape
        self.bins, head = config.head["bins"], config.head
        self.reader = {"queries": QueryReader, "mean": MeanReader}[head["reader"]](head, config.memory_width, horizon)
        self.out = nn.Linear(head["width"], action_width * (self.bins or 1))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        logits = self.out(self.reader(tokens, mask)).float()[:, None]
        if self.bins is None:
            return torch.tanh(logits)
        centres = (2 * torch.arange(self.bins, device=logits.device) + 1) / self.bins - 1
        return torch.softmax(logits.unflatten(-1, (-1, self.bins)), dim=-1) @ centres


class DfaVlaModel(VlaModel):
    config_class = DfaVlaConfig
    processor_class = DfaVlaProcessor
    _no_split_modules = ("Dinov2Layer", "ViTLayer", "LlamaDecoderLayer", "DecoderLayer")

    def __init__(self, config: DfaVlaConfig):
        super().__init__(config)
        is_dinov2 = config.dinov2 is not None
        self.encoder = (
            Dinov2Model(config.dinov2_config()) if is_dinov2 else ViTModel(config.vit_config(), add_pooling_layer=False)
        )
        stacked = config.frames == "inflate" and (config.num_frames > 1 or config.depth)
        self.frames = FrameStack(config.vision, config.num_frames, config.depth) if stacked else None
        self.language = Language(config)
        visual_width, width = config.vision["width"], config.width
        self.elementwise = self.mvsm = self.dfaf = self.contrast = None
        if config.elementwise:
            self.elementwise = Elementwise(config.elementwise, visual_width, width)
        else:
            self.mvsm = Mvsm(config.mvsm, config.cells, visual_width, width)
            self.dfaf = Dfaf(config.dfaf, width) if config.dfaf else None
            self.contrast = Contrast(config.contrast) if config.contrast else None
        proprio_width = len(config.action_space["proprio"])
        self.proprio = nn.Linear(proprio_width, config.memory_width) if config.proprio_token else None
        self.head = ActionHead(config)
        self.post_init()

    def _loss(self, stages: dict[str, Tensor], action: Tensor, action_mask: Tensor) -> Tensor:
        """Eq. 14 alone: the two losses beside it belong to pretraining."""
        error = functional.huber_loss(stages["actions"], torch.where(action_mask, action, 0), reduction="none")
        return torch.where(action_mask, error, 0).sum() / action_mask.sum().clamp(min=1)

    def _stages(self, observation: dict[str, Any]) -> dict[str, Tensor]:
        features, seen = self._features(observation)
        stages = {"features": features}
        read = self._read_apart if self.elementwise is not None else self._read_together
        memory = read(observation, features, seen, stages)
        stages["hidden"] = torch.where(memory.mask[..., None], memory.tokens, 0)
        tokens, mask = stages["hidden"], memory.mask | ~memory.mask.any(1, keepdim=True)
        if self.proprio is not None:
            now = _at(observation["proprio"], _current(observation)[:, None])
            tokens = torch.cat([tokens, self.proprio(now.to(tokens.dtype))], dim=1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        stages["actions"] = self.head(tokens, mask)
        return stages

    # ---- the picture

    def _features(self, observation: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Grids of one or more frames [b, f, r, c, d], the current one last, and which of them there are."""
        slot, count = self.config.camera, self.config.num_frames
        index = _current(observation)[:, None] - torch.arange(count - 1, -1, -1, device=self.device)
        place = index.clamp(min=0)
        seen = _at(observation["image_masks"][slot] & observation["timestep_mask"], place) & (index >= 0)
        seen = seen & seen[:, -1:]
        pixels = self._normalized(_at(observation["images"][slot], place))
        if self.config.frames == "inflate":
            return self._grid(pixels, seen, self._depths(observation, place))[:, None], seen[:, -1:]
        grids = torch.stack([self._grid(pixels[:, frame, None], seen, None) for frame in range(count)], dim=1)
        if self.config.frames == "concatenate":
            return grids, seen
        weights = (seen / seen.sum(1, keepdim=True).clamp(min=1)).to(grids.dtype)
        return torch.einsum("bf,bfrcd->brcd", weights, grids)[:, None], seen[:, -1:]

    def _grid(self, pixels: Tensor, seen: Tensor, depths: Tensor | None) -> Tensor:
        """[b, r, c, d] of pictures [b, f, 3, y, x], which become one."""
        parts, (height, width) = self.encoder.embeddings, pixels.shape[-2:]
        projection = parts.patch_embeddings.projection
        if self.frames is not None:
            patches = self.frames(projection, pixels, seen, depths)
        else:
            patches = projection(pixels[:, -1]).flatten(2).transpose(1, 2)
        x = torch.cat([parts.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        x = x + parts.interpolate_pos_encoding(x, height, width)
        for layer in self.encoder.encoder.layer if self.config.dinov2 else self.encoder.layers:
            x = layer(x)
        return self.encoder.layernorm(x)[:, 1:].unflatten(1, (height // self._patch_size, -1))

    @property
    def _patch_size(self) -> int:
        return self.config.vision["patch_size"]

    def _normalized(self, pictures: Tensor) -> Tensor:
        """uint8 [b, f, y, x, 3] to [b, f, 3, y, x]."""
        mean, std = (torch.tensor(each, device=pictures.device) for each in self.config.normalization)
        return ((pictures.float() / 255 - mean) / std).movedim(-1, 2).to(self.dtype)

    def _depths(self, observation: dict[str, Any], place: Tensor) -> Tensor | None:
        if "depths" not in observation:
            return None
        slot = self.config.camera
        measured = observation["depth_masks"][slot][..., None, None]
        return _at(torch.where(measured, observation["depths"][slot], 0), place)

    # ---- the words

    def _words(self, observation: dict[str, Any]) -> tuple[Tensor, Tensor]:
        mask = observation["attention_mask"]
        return self.language.model.embed_tokens(torch.where(mask, observation["input_ids"], 0)), mask

    def _read_apart(
        self, observation: dict[str, Any], features: Tensor, seen: Tensor, stages: dict[str, Tensor]
    ) -> Part:
        """Model 1."""
        words, mask = self._words(observation)
        text = Part(words, mask, _counted(mask, 0))
        text = self.language(text, (0, len(self.language.model.layers)), self.config.attention == "mutual")
        stages["text_states"] = text.tokens
        grid = torch.where(seen[:, -1, None, None, None], features[:, -1], 0)
        tokens = self.elementwise(grid, masked_mean(text.tokens, mask))
        return Part(tokens, torch.ones_like(tokens[..., 0], dtype=torch.bool), _counted(tokens[..., 0], 0))

    def _read_together(
        self, observation: dict[str, Any], features: Tensor, seen: Tensor, stages: dict[str, Tensor]
    ) -> Part:
        config, (words, mask) = self.config, self._words(observation)
        visual, visual_mask = self.mvsm(features, seen, *self._boxes(observation))
        stages["visual_tokens"] = visual
        is_text_first = config.order == "text_first"
        text = Part(words, mask, _counted(mask, 0 if is_text_first else visual.shape[1]))
        vision = Part(visual.to(words), visual_mask, _counted(visual_mask, mask.shape[1] if is_text_first else 0))
        start, projected = 0, config.candidates == "projected"
        for end in range(1, config.prefix_layers + 1) if config.applied == "each_block" else [config.prefix_layers]:
            if start and self.dfaf is not None:
                mixed = self.dfaf.mix(text.tokens, text.mask, visual if projected else vision.tokens)
                vision = vision._replace(tokens=mixed)
            both = self.language(self._join(text, vision), (start, end), config.attention != "causal")
            text, vision = self._split(both, mask.shape[1])
            start = end
        stages["text_states"] = text.tokens
        if self.dfaf is not None:
            fused = self.dfaf(text.tokens, text.mask, visual if projected else vision.tokens, visual_mask)
            stages["probabilities"] = fused.probabilities
            stages["fused_tokens"] = torch.where(fused.mask[..., None], fused.tokens, 0)
            vision = _chosen(fused, text, vision)
        rest = vision if config.sequence == "fused_only" else self._join(text, vision)
        span = (config.prefix_layers, len(self.language.model.layers))
        return self.language(rest, span, config.attention == "mutual")

    def _boxes(self, observation: dict[str, Any]) -> tuple[Tensor | None, Tensor | None]:
        if self.config.boxes is None:
            return None, None
        step = _current(observation)[:, None]
        return _at(observation["boxes"], step)[:, 0], _at(observation["box_masks"], step)[:, 0]

    def _join(self, text: Part, vision: Part) -> Part:
        parts = (text, vision) if self.config.order == "text_first" else (vision, text)
        return Part(*(torch.cat(each, dim=1) for each in zip(*parts)))

    def _split(self, both: Part, length: int) -> tuple[Part, Part]:
        """The text, of `length` tokens, and the rest."""
        if self.config.order == "text_first":
            return Part(*(each[:, :length] for each in both)), Part(*(each[:, length:] for each in both))
        return Part(*(each[:, -length:] for each in both)), Part(*(each[:, :-length] for each in both))


def _chosen(fused: Fused, text: Part, vision: Part) -> Part:
    """F, where it stood; where each token belongs to a word: as many behind the sequence's first visual place."""
    if fused.places is None:
        positions = vision.positions[:, :1] + torch.arange(text.tokens.shape[1], device=vision.positions.device)
    else:
        positions = vision.positions.gather(1, fused.places)
    return Part(fused.tokens, fused.mask, positions)


def _current(observation: dict[str, Any]) -> Tensor:
    """[b]: the last step of each window that is one."""
    valid = observation["timestep_mask"]
    return torch.where(valid, torch.arange(valid.shape[1], device=valid.device), 0).amax(1)


def _at(x: Tensor, place: Tensor) -> Tensor:
    """Steps `place` [b, f] of x [b, w, ...]."""
    return x[torch.arange(len(x), device=x.device)[:, None], place]


def _counted(like: Tensor, start: int) -> Tensor:
    """Positions [b, n] from `start` on."""
    return torch.arange(start, start + like.shape[1], device=like.device).expand(like.shape[:2])
