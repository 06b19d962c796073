"""The ways in which the language model reads the vision expert, by the names of their configurations.

Axes: b batch, n tokens of the language model, e tokens of the expert, k shared ones, v visual tokens.
Source: DeepVision-VLA (arXiv 2603.15618) sections 3.3 and 4.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .expert_deepvision_vla import (
    Aligner,
    Rotation,
    attention_of_class,
    averaged,
    grid_of,
    literal_layer,
    normalized,
    prefix_length,
    reduced,
    shared_layer,
    take,
)
from .qwen_vla import ActionSequence, Picture, Qwen


@dataclass
class Scene:
    images: Tensor
    """uint8 [b, y, x, 3]."""
    is_there: Tensor
    """bool [b]."""


@dataclass
class Reading:
    tokens: Tensor
    """[b, n, d], normed."""
    stages: dict[str, Tensor] = field(default_factory=dict)


class Integration(nn.Module):
    tower_blocks: tuple[int, ...] = ()
    """Of the language model's own tower, whose outputs are wanted."""

    def beside(self, expert: nn.Module | None, scene: Scene | None, tower: tuple[int, int]) -> Tensor | None:
        """As `Qwen.see` takes it."""
        return None


class DeepCoupling(Integration):
    def __init__(self, config: dict[str, Any], vlm: dict[str, Any], expert: dict[str, Any] | None):
        super().__init__()
        self.config = config
        self.num_layers = config["num_layers"]
        decoder = vlm["language"]["decoder"]
        self.start = decoder["num_layers"] - self.num_layers
        width = self._source_width(vlm, expert)
        self.aligners = nn.ModuleList(Aligner(config["attention"], decoder, width) for _ in range(self.num_layers))

    def _source_width(self, vlm: dict[str, Any], expert: dict[str, Any] | None) -> int:
        depth = expert["num_layers"]
        kind = self.config["expert_layers"]
        self.expert_start = depth - self.num_layers if kind == "last" else 0
        self.stride = max(1, depth // self.num_layers) if kind == "uniform" else 1
        return expert["width"]

    def forward(
        self, qwen: Qwen, expert: nn.Module | None, sequence: ActionSequence, picture: Picture, scene: Scene | None
    ) -> Reading:
        config, grid, prefix = self.config, grid_of(expert, scene.images), prefix_length(expert)
        x, scores = self._lower(qwen, sequence, picture, grid)
        pixels = normalized(scene.images)
        e, rotation = expert.embeddings(pixels), expert.rope_embeddings(pixels)
        for index in range(self.expert_start):
            if config["guidance"] == "cls" and index == self.expert_start - 1:
                scores = attention_of_class(expert, index, e, rotation, config["pruning"])
            e = expert.model.layer[index](e, position_embeddings=rotation)
        places = self._choose(scores)
        angles = self._angles(qwen, sequence, picture, grid, prefix)
        select = functools.partial(_shared_of_all, prefix, config["inject_prefix"], places)
        if config["prune_mode"] == "tokens":
            e = torch.cat([e[:, :prefix], take(e[:, prefix:], places)], dim=1)
            patches = (take(angle.expand(len(e), -1, -1), places) for angle in rotation)
            rotation = tuple(angle[:, None] for angle in patches)
            angles = angles and tuple(
                torch.cat([angle[:, :prefix], take(angle[:, prefix:], places)], dim=1) for angle in angles
            )
            select = functools.partial(_rest, 0 if config["inject_prefix"] else prefix)
        mask = self._mask(sequence, scene.is_there, select(e).shape[1])
        turning = qwen.rotation(sequence.positions)
        shared_angles = angles and tuple(map(select, angles))
        for number, aligner in enumerate(self.aligners):
            index, first = self.start + number, self.expert_start + self.stride * number
            for passed in range(first, first + self.stride - 1):
                e = expert.model.layer[passed](e, position_embeddings=rotation)
            layer, attention = expert.model.layer[first + self.stride - 1], qwen.layers[index].self_attn
            seen = layer.norm1(select(e))
            own = layer.attention
            shared = aligner.key_value(own.k_proj(seen), own.v_proj(seen), attention, shared_angles)
            if config["attention"]["expert_attention"] == "native":
                e = layer(e, position_embeddings=rotation)
            else:
                e = literal_layer(layer, e, aligner, attention, angles)
            x = shared_layer(qwen, index, x, turning, mask, aligner, shared)
        return Reading(qwen.norm(x), {"guidance": scores})

    def _lower(
        self, qwen: Qwen, sequence: ActionSequence, picture: Picture, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None]:
        """The language model before the coupling, and what its guiding rows say of the patches of `grid`."""
        guidance, length = self.config["guidance"], sequence.valid.shape[1]
        rows = {"action": (length - sequence.num_actions, length), "text": sequence.words}.get(guidance)
        turning, maps = qwen.rotation(sequence.positions), []

        def look(index: int, x: Tensor) -> None:
            if rows is not None and index in self.config["reference_layers"]:
                with torch.no_grad():
                    maps.append(self._look(qwen, index, x, turning, sequence, rows))

        x = qwen.run(sequence, sequence.embeddings, (0, self.start), before=look)
        if rows is None:
            return x, None
        row_mask = sequence.valid[:, slice(*rows)].float()
        share = row_mask / row_mask.sum(1, keepdim=True).clamp(min=1)
        scores = torch.einsum("br,brv->bv", share, torch.stack(maps).mean(0))
        return x, self._enlarged(scores, picture.grid, grid)

    def _look(
        self,
        qwen: Qwen,
        index: int,
        x: Tensor,
        turning: Rotation,
        sequence: ActionSequence,
        rows: tuple[int, int],
    ) -> Tensor:
        """[b, r, v]: a layer's attention of the guiding rows on the picture, heads reduced."""
        query, key, _ = qwen.projections(index, x, turning)
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scores = query[:, :, slice(*rows)].float() @ key.float().transpose(2, 3) * query.shape[-1] ** -0.5
        mask = sequence.mask[:, None, slice(*rows)]
        weights = torch.softmax(scores.masked_fill(~mask, torch.finfo(torch.float32).min), dim=-1)
        return reduced(weights[..., slice(*sequence.pictures[0])], self.config["pruning"])

    def _enlarged(self, scores: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
        mode, maps = self.config["pruning"]["interpolation"], scores.unflatten(1, source)[:, None]
        if mode == "nearest":
            return functional.interpolate(maps, target, mode=mode).flatten(1)
        return functional.interpolate(maps, target, mode=mode, align_corners=False).flatten(1)

    def _choose(self, scores: Tensor) -> Tensor:
        """[b, k], in the order of the grid. Of equal scores the first are kept."""
        kept = max(1, round(scores.shape[1] * (1 - self.config["pruning"]["ratio"])))
        return scores.detach().argsort(dim=1, descending=True, stable=True)[:, :kept].sort(dim=1).values

    def _angles(
        self, qwen: Qwen, sequence: ActionSequence, picture: Picture, grid: tuple[int, int], prefix: int
    ) -> Rotation | None:
        """Of the expert's tokens in the language model's heads; class and registers stand where the picture begins."""
        if self.config["positions"] == "none":
            return None
        first = sequence.positions[:, :, sequence.pictures[0][0], None].float()
        count = grid[0] * grid[1]
        if self.config["positions"] == "grid":
            rows, columns = (
                (torch.arange(fine, device=first.device) + 0.5) * coarse / fine - 0.5
                for coarse, fine in zip(picture.grid, grid, strict=True)
            )
            inside = torch.stack([rows.repeat_interleave(grid[1]), columns.repeat(grid[0])])
            patches = first + functional.pad(inside, (0, 0, 1, 0))[:, None]
        else:
            patches = first + torch.arange(count, device=first.device)
        return qwen.rotation(torch.cat([first.expand(-1, -1, prefix), patches], dim=2))

    def _mask(self, sequence: ActionSequence, is_there: Tensor, count: int) -> Tensor:
        """bool [b, n, k + n]."""
        length = sequence.valid.shape[1]
        reads = torch.ones(length, dtype=torch.bool, device=is_there.device)
        if self.config["readers"] == "visual_and_action":
            reads = torch.arange(length, device=is_there.device) >= length - sequence.num_actions
            for start, stop in sequence.pictures:
                reads[start:stop] = True
        seen = (reads & is_there[:, None])[..., None].expand(-1, -1, count)
        return torch.cat([seen, sequence.mask], dim=2)


class TowerCoupling(DeepCoupling):
    """Of layers of the language model's own tower, which has run already."""

    def _source_width(self, vlm: dict[str, Any], expert: dict[str, Any] | None) -> int:
        vit = vlm["vision"]["vit"]
        depth, count = vit["num_layers"], self.num_layers
        self.layers = [-(-(i + 1) * depth // count) - 1 for i in range(count)]
        self.tower_blocks = tuple(layer - 1 for layer in self.layers)
        self.tower_merge = vlm["vision"]["merge_size"]
        return vit["width"]

    def forward(
        self, qwen: Qwen, expert: nn.Module | None, sequence: ActionSequence, picture: Picture, scene: Scene | None
    ) -> Reading:
        grid = (picture.grid[0] * self.tower_merge, picture.grid[1] * self.tower_merge)
        x, scores = self._lower(qwen, sequence, picture, grid)
        places = self._choose(scores)
        angles = self._angles(qwen, sequence, picture, grid, 0)
        angles = angles and tuple(take(angle, places) for angle in angles)
        mask = self._mask(sequence, sequence.valid[:, sequence.pictures[0][0]], places.shape[1])
        turning = qwen.rotation(sequence.positions)
        for number, (aligner, layer) in enumerate(zip(self.aligners, self.layers, strict=True)):
            block, index = qwen.model.visual.blocks[layer], self.start + number
            kept = take(picture.blocks[layer - 1], places)
            _, key, value = block.attn.qkv(block.norm1(kept)).chunk(3, dim=-1)
            shared = aligner.key_value(key, value, qwen.layers[index].self_attn, angles)
            x = shared_layer(qwen, index, x, turning, mask, aligner, shared)
        return Reading(qwen.norm(x), {"guidance": scores})


class EarlyConcatenation(Integration):
    """The expert's features, averaged to the tower's grid, stand beside the tower's before they are merged."""

    def __init__(self, config: dict[str, Any], vlm: dict[str, Any], expert: dict[str, Any] | None):
        super().__init__()
        self.merge_size = vlm["vision"]["merge_size"]
        windows = self.merge_size**2
        self.projection = nn.Linear(expert["width"] * windows, vlm["vision"]["vit"]["width"] * windows, bias=False)

    def beside(self, expert: nn.Module | None, scene: Scene | None, tower: tuple[int, int]) -> Tensor | None:
        features = expert(normalized(scene.images)).last_hidden_state[:, prefix_length(expert) :]
        pooled = averaged(features, grid_of(expert, scene.images), tower)
        merge = self.merge_size
        windows = pooled.unflatten(1, (tower[0] // merge, merge, tower[1] // merge, merge)).transpose(2, 3)
        return self.projection(windows.flatten(3).flatten(1, 2).flatten(2)) * scene.is_there[:, None, None]

    def forward(
        self, qwen: Qwen, expert: nn.Module | None, sequence: ActionSequence, picture: Picture, scene: Scene | None
    ) -> Reading:
        return Reading(qwen.norm(qwen.run(sequence, sequence.embeddings, (0, len(qwen.layers)))))


class MiddleAlignment(Integration):
    """The expert takes part in the loss alone."""

    def __init__(self, config: dict[str, Any], vlm: dict[str, Any], expert: dict[str, Any] | None):
        super().__init__()
        self.config = config
        self.up = nn.Linear(vlm["language"]["decoder"]["width"], config["hidden_width"])
        self.down = nn.Linear(config["hidden_width"], expert["width"])

    def forward(
        self, qwen: Qwen, expert: nn.Module | None, sequence: ActionSequence, picture: Picture, scene: Scene | None
    ) -> Reading:
        layer, (start, stop) = self.config["layer"], sequence.pictures[0]
        middle = qwen.run(sequence, sequence.embeddings, (0, layer + 1))
        tokens = qwen.norm(qwen.run(sequence, middle, (layer + 1, len(qwen.layers))))
        with torch.no_grad():
            features = expert(normalized(scene.images)).last_hidden_state[:, prefix_length(expert) :]
            target = averaged(features, grid_of(expert, scene.images), picture.grid).float()
        projected = self.down(functional.gelu(self.up(middle[:, start:stop]))).float()
        distance = 1 - functional.cosine_similarity(projected, target, dim=-1, eps=1e-12).mean(1)
        is_there = scene.is_there & sequence.valid[:, start]
        loss = torch.where(is_there, distance, 0.0).sum() / is_there.sum().clamp(min=1)
        return Reading(tokens, {"alignment": self.config["weight"] * loss})


INTEGRATIONS: dict[str, type[Integration]] = {
    "DeepCouplingConfig": DeepCoupling,
    "TowerCouplingConfig": TowerCoupling,
    "EarlyConcatenationConfig": EarlyConcatenation,
    "MiddleAlignmentConfig": MiddleAlignment,
}


def _shared_of_all(prefix: int, with_prefix: bool, places: Tensor, x: Tensor) -> Tensor:
    patches = take(x[:, prefix:], places)
    return torch.cat([x[:, :prefix], patches], dim=1) if with_prefix else patches


def _rest(start: int, x: Tensor) -> Tensor:
    return x[:, start:]
