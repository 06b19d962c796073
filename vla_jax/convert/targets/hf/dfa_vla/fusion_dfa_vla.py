"""The parts of DFA-VLA between its encoder and its language model.

Axes: b batch, f frames (the last is now), y x pixels, r c rows and columns of the grid, k boxes or chosen tokens,
t text tokens, n visual tokens, d width. Masks: True = valid. Equations are the paper's.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .transformer_vla import Mlp

NOTHING = -2.0
"""Below every cosine: the score of a token where there are no words."""
LOWEST = -1e9
"""The score of what is masked."""


def unit(x: Tensor) -> Tensor:
    x = x.float()
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-12)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """[b, n, d] to [b, d]; zero where nothing is valid."""
    total = torch.where(mask[..., None], x, 0).sum(1, dtype=torch.float32)
    return (total / mask.sum(1, keepdim=True).clamp(min=1)).to(x.dtype)


def roi_align(grid: Tensor, boxes: Tensor, mask: Tensor, size: int) -> Tensor:
    """Means of boxes [b, k, d] over a grid [b, r, c, d]: torchvision's roi_align (aligned, 2 samples), then the mean.

    Args: boxes: left, upper, right, lower in shares of the picture; masked ones give zeros.
    """
    rows, columns = grid.shape[1:3]
    boxes = torch.where(mask[..., None], boxes.float(), 0)
    left, upper, right, lower = boxes.unbind(-1)
    vertical = _along(upper * rows, lower * rows, size, rows) * mask[..., None]
    horizontal = _along(left * columns, right * columns, size, columns)
    return torch.einsum("bkr,bkc,brcd->bkd", vertical.to(grid), horizontal.to(grid), grid)


def _along(start: Tensor, end: Tensor, size: int, length: int) -> Tensor:
    """[b, k, length]: the weights of a grid's cells along one side, mean over the samples."""
    steps = (torch.arange(2 * size, device=start.device) + 0.5) / (2 * size)
    samples = start[..., None] + (end - start)[..., None] * steps - 0.5
    inside = (samples >= -1) & (samples <= length)
    nearest = samples.clamp(0, length - 1)
    distance = (nearest[..., None] - torch.arange(length, device=start.device)).abs()
    return ((1 - distance).clamp(min=0) * inside[..., None]).mean(-2)


class FrameStack(nn.Module):
    """Several frames, and depth, through one patch embedding, whose weights are those of stills.

    Each earlier frame's kernel is that of stills over f, plus its deviation; depth has a kernel of its own.
    """

    def __init__(self, vision: dict[str, Any], num_frames: int, depth: dict[str, Any] | None):
        super().__init__()
        self.patch_size, self.num_frames = vision["patch_size"], num_frames
        size, width = (self.patch_size, self.patch_size), vision["width"]
        self.max_metres = depth["max_metres"] if depth else None
        self.deviations = nn.Parameter(torch.zeros(width, 3, num_frames - 1, *size)) if num_frames > 1 else None
        self.depth = nn.Parameter(torch.zeros(width, 1, num_frames, *size)) if depth else None

    def forward(self, projection: nn.Conv2d, pixels: Tensor, mask: Tensor, depths: Tensor | None) -> Tensor:
        """[b, n, d]. Args: pixels: normalised [b, f, 3, y, x]; depths: metres [b, f, y, x]."""
        change = torch.where(mask[:, :-1, None, None, None], pixels[:, :-1] - pixels[:, -1:], 0)
        embedded = projection(pixels[:, -1] + change.sum(1) / self.num_frames)
        if self.deviations is not None:
            embedded = embedded + self._project(change.transpose(1, 2), self.deviations)
        if self.depth is not None and depths is not None:
            seen = torch.where(mask[..., None, None], depths, 0) / self.max_metres
            embedded = embedded + self._project(seen.clamp(0, 1)[:, None].to(embedded.dtype), self.depth)
        return embedded.flatten(2).transpose(1, 2)

    def _project(self, pixels: Tensor, kernel: Tensor) -> Tensor:
        return functional.conv3d(pixels, kernel, stride=(1, self.patch_size, self.patch_size))[:, :, 0]


class Mvsm(nn.Module):
    """Eq. 1-4."""

    def __init__(self, config: dict[str, Any], cells: int | None, in_width: int, out_width: int):
        super().__init__()
        self.cells, self.roi_size = cells, config["roi_size"]
        self.projection = nn.Linear(in_width, out_width)

    def forward(
        self, grids: Tensor, frame_mask: Tensor, boxes: Tensor | None, box_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens [b, n, d] and their mask, of grids [b, f, r, c, d]."""
        if self.cells is not None and grids.shape[2:4] != (self.cells, self.cells):
            flat = grids.flatten(0, 1).permute(0, 3, 1, 2).float()
            resized = functional.interpolate(flat, size=(self.cells, self.cells), mode="bilinear", align_corners=False)
            grids = resized.permute(0, 2, 3, 1).unflatten(0, grids.shape[:2]).to(grids.dtype)
        tokens = grids.flatten(1, 3)
        mask = frame_mask.repeat_interleave(grids.shape[2] * grids.shape[3], dim=1)
        if boxes is not None and box_mask is not None:
            box_mask = box_mask & frame_mask[:, -1:]
            tokens = torch.cat([tokens, roi_align(grids[:, -1], boxes, box_mask, self.roi_size)], dim=1)
            mask = torch.cat([mask, box_mask], dim=1)
        return self.projection(tokens), mask


class Gate(nn.Module):
    """Eq. 8."""

    def __init__(self, config: dict[str, Any], width: int):
        super().__init__()
        self.kind, self.value = config["kind"], config["value"]
        if self.kind == "mlp":
            self.layer: nn.Module | None = Mlp(width, config["hidden_width"], "gelu")
        else:
            self.layer = nn.Linear(width, {"scalar": 1, "vector": width}[self.kind]) if self._is_learned else None

    @property
    def _is_learned(self) -> bool:
        return self.kind in ("scalar", "vector", "mlp")

    def forward(self, mean: Tensor) -> tuple[Any, Any]:
        """What tokens and words are multiplied with."""
        if self.layer is not None:
            alpha = torch.sigmoid(self.layer(mean).float()).to(mean.dtype)
            return alpha, 1 - alpha
        one = torch.ones_like(mean[:, :1])
        return (one, one) if self.kind == "sum" else (self.value * one, (1 - self.value) * one)


class Fused(NamedTuple):
    tokens: Tensor
    """F, [b, k, d]."""
    mask: Tensor
    places: Tensor | None
    """Which of the visual tokens each was; None: each belongs to a word."""
    probabilities: Tensor
    """[b, n]."""


class Dfaf(nn.Module):
    """Eq. 8-10."""

    def __init__(self, config: dict[str, Any], width: int):
        super().__init__()
        self.config = config
        self.gate = Gate(config["gate"], width)
        self.text_query = nn.Parameter(torch.zeros(width)) if config["text_reduce"] == "attention" else None

    def forward(self, text: Tensor, text_mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Fused:
        similarity = unit(text) @ unit(visual).transpose(1, 2)
        scores = self._scores(similarity, text, text_mask).masked_fill(~visual_mask, LOWEST)
        probabilities = torch.softmax(scores / self.config["temperature"], dim=-1) * visual_mask
        count = min(self.config["num_selected"], visual.shape[1])
        chosen = scores.topk(count, dim=-1).indices.sort(dim=-1).values
        places: Tensor | None = chosen
        if self.config["selection"] == "in_place":
            places = torch.arange(visual.shape[1], device=visual.device).expand(visual.shape[:2])
            sparse, mask = visual, visual_mask & (chosen[:, :, None] == places[:, None]).any(1)
        elif self.config["selection"] == "per_token":
            sparse, places = self._by_word(similarity, visual, visual_mask, count), None
            mask = text_mask & visual_mask.any(1, keepdim=True)
        else:
            sparse, mask = (
                visual.gather(1, chosen[..., None].expand(-1, -1, visual.shape[2])),
                visual_mask.gather(1, chosen),
            )
        return Fused(self.mix(text, text_mask, sparse), mask, places, probabilities)

    def mix(self, text: Tensor, text_mask: Tensor, visual: Tensor) -> Tensor:
        """Eq. 10."""
        mean = masked_mean(text, text_mask)
        of_visual, of_text = self.gate(mean)
        return of_visual[:, None] * visual + (of_text * mean)[:, None]

    def _scores(self, similarity: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        if self.config["text_reduce"] == "max":
            return similarity.masked_fill(~text_mask[..., None], NOTHING).amax(1)
        if self.text_query is None:
            weights = text_mask / text_mask.sum(1, keepdim=True).clamp(min=1)
        else:
            logits = (text.float() @ self.text_query.float()) * text.shape[-1] ** -0.5
            weights = torch.softmax(logits.masked_fill(~text_mask, LOWEST), dim=-1) * text_mask
        scores = torch.einsum("bt,btn->bn", weights, similarity)
        return torch.where(text_mask.any(1, keepdim=True), scores, NOTHING)

    def _by_word(self, similarity: Tensor, visual: Tensor, visual_mask: Tensor, count: int) -> Tensor:
        masked = similarity.masked_fill(~visual_mask[:, None], LOWEST)
        kept = (masked >= masked.topk(count, dim=-1).values[..., -1:]) & visual_mask[:, None]
        logits = (masked / self.config["temperature"]).masked_fill(~kept, LOWEST)
        return (torch.softmax(logits, dim=-1) * kept).to(visual.dtype) @ visual


class Contrast(nn.Module):
    """Of training alone; its temperature is kept as it came."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        learned = config["learn_temperature"]
        self.log_temperature = nn.Parameter(torch.tensor(config["temperature"]).log()) if learned else None


class Elementwise(nn.Module):
    """Model 1: a CNN over the grid, its mean and the text's multiplied in a shared space."""

    STRIDES = (1, 2, 2)

    def __init__(self, config: dict[str, Any], visual_width: int, text_width: int):
        super().__init__()
        self.config, width = config, config["width"]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width if number else visual_width, width, 3, stride=stride)
            for number, stride in enumerate(self.STRIDES)
        )
        self.visual = nn.Linear(width, width)
        self.text = nn.Linear(text_width, width)

    def forward(self, grid: Tensor, text: Tensor) -> Tensor:
        """What is decoded from, [b, n, d]. Args: grid: [b, r, c, d]; text: [b, d]."""
        x = grid.permute(0, 3, 1, 2)
        for layer, stride in zip(self.convolutions, self.STRIDES):
            x = functional.gelu(layer(functional.pad(x, [*_same(x.shape[3], stride), *_same(x.shape[2], stride)])))
        visual, words = self.visual(x.mean((2, 3))), self.text(text)
        fused = visual * words if self.config["operation"] == "multiply" else visual + words
        return (
            torch.cat([fused[:, None], x.flatten(2).transpose(1, 2)], dim=1)
            if self.config["keep_map"]
            else fused[:, None]
        )


def _same(length: int, stride: int) -> tuple[int, int]:
    """Zeros before and behind, so that a kernel of 3 shrinks the map by the stride alone: more behind, as in JAX."""
    total = max((-(-length // stride) - 1) * stride + 3 - length, 0)
    return total // 2, total - total // 2
