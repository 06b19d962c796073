"""Qwen3-VL as a robot policy: a chat turn with pictures and words, then empty action tokens, and a perceptron on those.

Axes: b batch, n tokens of the language model, m picture tokens, t text tokens, d width, h heads, f head width.
Inside is transformers' own Qwen3VLModel; its layers are run one by one, so that a policy can reach between them.
Source: DeepVision-VLA (arXiv 2603.15618) section 3.3.1 (QwenVLA-OFT).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel, apply_rotary_pos_emb

from .modeling_vla import VlaModel

ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh"}
"""Names of ours that transformers has otherwise."""


def qwen_config(vlm: dict[str, Any]) -> Qwen3VLConfig:
    """Args: vlm: `config.json`'s section of that name."""
    vision, vit = vlm["vision"], vlm["vision"]["vit"]
    language, decoder = vlm["language"], vlm["language"]["decoder"]
    return Qwen3VLConfig(
        image_token_id=vlm["image_id"],
        tie_word_embeddings=decoder["tied_head"],
        vision_config={
            "hidden_size": vit["width"],
            "intermediate_size": vit["mlp_width"],
            "depth": vit["num_layers"],
            "num_heads": vit["num_heads"],
            "hidden_act": ACTIVATIONS.get(vit["activation"], vit["activation"]),
            "patch_size": vit["patch_size"],
            "temporal_patch_size": vit["num_frames"],
            "spatial_merge_size": vision["merge_size"],
            "out_hidden_size": vision["out_width"],
            "num_position_embeddings": (vit["image_size"] // vit["patch_size"]) ** 2,
            "deepstack_visual_indexes": vision["deepstack"],
            "rope_parameters": {"rope_type": "axial", "rope_theta": vit["positions"]["theta"]},
        },
        text_config={
            "vocab_size": decoder["vocab_size"],
            "hidden_size": decoder["width"],
            "intermediate_size": decoder["mlp_width"],
            "num_hidden_layers": decoder["num_layers"],
            "num_attention_heads": decoder["num_heads"],
            "num_key_value_heads": decoder["num_key_value_heads"],
            "head_dim": decoder["head_width"],
            "hidden_act": ACTIVATIONS.get(decoder["activation"], decoder["activation"]),
            "max_position_embeddings": decoder["max_length"],
            "rms_norm_eps": decoder["norm"]["epsilon"],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": decoder["theta"],
                "mrope_interleaved": True,
                "mrope_section": language["sections"],
            },
        },
    )


@dataclass
class Picture:
    merged: Tensor
    """[b, m, d], row by row."""
    deepstack: list[Tensor]
    grid: tuple[int, int]
    """Rows and columns of the merged patches."""
    blocks: dict[int, Tensor]
    """Outputs of the tower's blocks that were asked for, [b, patches, width], row by row."""


@dataclass
class ActionSequence:
    embeddings: Tensor
    """[b, n, d]"""
    positions: Tensor
    """[3, b, n]: in time, height and width."""
    valid: Tensor
    """bool [b, n]; False at padding and at a missing picture's places."""
    mask: Tensor
    """bool [b, n, n]; True = may attend."""
    additions: list[Tensor]
    """DeepStack: what is added to the outputs of the first layers, [b, n, d] each."""
    pictures: list[tuple[int, int]]
    """First place of each picture's tokens, and the one past the last."""
    words: tuple[int, int]
    num_actions: int


class Qwen(nn.Module):
    def __init__(self, vlm: dict[str, Any]):
        super().__init__()
        config = qwen_config(vlm)
        self.model = Qwen3VLModel(config)
        self.image_id = config.image_token_id
        self.patch_size = config.vision_config.patch_size
        self.num_frames = config.vision_config.temporal_patch_size
        self.merge_size = config.vision_config.spatial_merge_size
        self.mean, self.std = vlm["vision"]["vit"]["mean"], vlm["vision"]["vit"]["std"]

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.language_model.layers

    # ---- pictures

    def see(self, images: Tensor, blocks: list[int] = (), beside: Tensor | None = None) -> Picture:
        """Args: images: uint8 [b, y, x, 3]. blocks: of the tower, wanted. beside: [b, m, w], added to what the
        merger's first layer makes of each window.
        """
        visual, merge = self.model.visual, self.merge_size
        batch, rows, columns = len(images), images.shape[1] // self.patch_size, images.shape[2] // self.patch_size
        found: dict[int, Tensor] = {}
        hooks = [visual.blocks[i].register_forward_hook(_keep(found, i)) for i in blocks]
        if beside is not None:
            hooks.append(visual.merger.linear_fc1.register_forward_hook(lambda _m, _i, out: out + beside.flatten(0, 1)))
        try:
            grid = torch.tensor([[1, rows, columns]] * batch, device=images.device)
            seen = visual(self._patches(images), grid)
        finally:
            for hook in hooks:
                hook.remove()
        return Picture(
            merged=seen.pooler_output.unflatten(0, (batch, -1)),
            deepstack=[level.unflatten(0, (batch, -1)) for level in seen.deepstack_features],
            grid=(rows // merge, columns // merge),
            blocks={i: self._row_major(x.unflatten(0, (batch, -1)), columns) for i, x in found.items()},
        )

    def _patches(self, images: Tensor) -> Tensor:
        """As transformers' processor makes them: by merge window, a still repeated in time."""
        merge, size = self.merge_size, self.patch_size
        mean, std = (torch.tensor(values, device=images.device) for values in (self.mean, self.std))
        pixels = (images.float() / 255 - mean) / std
        pixels = pixels.permute(0, 3, 1, 2).unflatten(3, (-1, merge, size)).unflatten(2, (-1, merge, size))
        # b c R i y C j x -> b R C i j c t y x
        windows = pixels.permute(0, 2, 5, 3, 6, 1, 4, 7)[:, :, :, :, :, :, None]
        repeated = windows.expand(*windows.shape[:6], self.num_frames, size, size)
        return repeated.reshape(-1, 3 * self.num_frames * size * size)

    def _row_major(self, patches: Tensor, columns: int) -> Tensor:
        merge = self.merge_size
        windows = patches.unflatten(1, (-1, columns // merge, merge, merge))
        return windows.transpose(2, 3).flatten(1, 4)

    # ---- layers

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, [b, n, f]. Args: positions: [3, b, n]."""
        like = self.model.language_model.norm.weight
        return self.model.language_model.rotary_emb(like, positions)

    def run(
        self,
        sequence: ActionSequence,
        x: Tensor,
        span: tuple[int, int],
        before: Callable[[int, Tensor], None] = lambda index, x: None,
    ) -> Tensor:
        """The layers of `span`. Args: before: called with each layer's number and input."""
        rotation, bias = self.rotation(sequence.positions), additive(sequence.mask, x)
        for index in range(*span):
            before(index, x)
            x = self.layers[index](x, attention_mask=bias, position_embeddings=rotation)
            x = x + sequence.additions[index] if index < len(sequence.additions) else x
        return x

    def norm(self, x: Tensor) -> Tensor:
        return self.model.language_model.norm(x)

    def projections(self, index: int, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [b, h, n, f], keys and values [b, g, n, f] of a layer."""
        layer = self.layers[index]
        own, normed = layer.self_attn, layer.input_layernorm(x)

        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (-1, own.head_dim))

        query = own.q_norm(heads(own.q_proj(normed))).transpose(1, 2)
        key = own.k_norm(heads(own.k_proj(normed))).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *rotation)
        return query, key, heads(own.v_proj(normed)).transpose(1, 2)

    def finish(self, index: int, x: Tensor, attended: Tensor) -> Tensor:
        """A layer's output. Args: attended: [b, h, n, f]."""
        layer = self.layers[index]
        x = x + layer.self_attn.o_proj(attended.transpose(1, 2).flatten(2))
        return x + layer.mlp(layer.post_attention_layernorm(x))


class ActionHead(nn.Module):
    """The last tokens to the chunk's entries."""

    def __init__(self, config: Any):
        super().__init__()
        width = config.vlm["language"]["decoder"]["width"]
        self.chunk = config.chunk_shape
        horizon, action_width = self.chunk
        self.num_tokens = horizon * (1 if config.head["token"] == "step" else action_width)
        hidden = config.head["hidden_width"] or width
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, horizon * action_width // self.num_tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """[b, n, d] to float32 [b, 1, h, a]."""
        chunk = self.out(functional.relu(self.hidden(tokens[:, -self.num_tokens :])))
        return chunk.reshape(len(chunk), 1, *self.chunk).float()


class QwenVlaModel(VlaModel):
    """What policies on Qwen3-VL share; a policy adds `_stages`."""

    _no_split_modules = ("Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock", "DINOv3ViTLayer")

    def __init__(self, config: Any):
        super().__init__(config)
        self.vlm = Qwen(config.vlm)
        width = config.vlm["language"]["decoder"]["width"]
        reads = config.reader["reads_proprio"]
        self.proprio_encoder = nn.Linear(len(config.action_space["proprio"]), width) if reads else None
        self.action_head = ActionHead(config)

    def _see(self, observation: dict[str, Any], **first: Any) -> list[Picture]:
        """Each camera's present picture. Args: first: of `Qwen.see`, for the first camera."""
        seen = [observation["images"][slot][:, -1] for slot in self.config.reader["cameras"]]
        return [self.vlm.see(seen[0], **first), *map(self.vlm.see, seen[1:])]

    def _sequence(self, observation: dict[str, Any], pictures: list[Picture]) -> ActionSequence:
        reader = self.config.reader
        ids, valid, spans = self._turn(observation, pictures)
        is_picture = valid & (ids == self.vlm.image_id)
        embeddings = self.vlm.model.language_model.embed_tokens(torch.where(valid, ids, 0))
        additions = [torch.zeros_like(embeddings) for _ in pictures[0].deepstack] if reader["deepstack"] else []
        for picture, (start, stop) in zip(pictures, spans[:-1], strict=True):
            embeddings = torch.cat([embeddings[:, :start], picture.merged, embeddings[:, stop:]], dim=1)
            for level, added in enumerate(additions):
                added[:, start:stop] = picture.deepstack[level]
        positions = _positions(valid, is_picture, [picture.grid for picture in pictures])
        parts = [] if self.proprio_encoder is None else [self.proprio_encoder(observation["proprio"][:, -1:])]
        parts.append(embeddings.new_zeros(len(ids), self.action_head.num_tokens, embeddings.shape[2]))
        for slot, (start, stop) in zip(reader["cameras"], spans[:-1], strict=True):
            valid[:, start:stop] = observation["image_masks"][slot][:, -1:]
        for part in parts:
            count = part.shape[1]
            further = positions.amax((0, 2))[:, None] + 1 + torch.arange(count, device=ids.device)
            positions = torch.cat([positions, further.expand(3, -1, -1)], dim=2)
            embeddings = torch.cat([embeddings, part.to(embeddings.dtype)], dim=1)
            valid = functional.pad(valid, (0, count), value=True)
            additions = [functional.pad(added, (0, 0, 0, count)) for added in additions]
        return ActionSequence(
            embeddings=embeddings,
            positions=positions,
            valid=valid,
            mask=self._mask(valid),
            additions=additions,
            pictures=spans[:-1],
            words=spans[-1],
            num_actions=self.action_head.num_tokens,
        )

    def _turn(
        self, observation: dict[str, Any], pictures: list[Picture]
    ) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        """Ids, their mask, and the places of the pictures and, last, the words."""
        turn, words = self.config.reader["sequence"], observation["input_ids"]
        front, spans = list(turn["before"]), []
        for picture in pictures:
            start, count = len(front) + 1, picture.merged.shape[1]
            spans.append((start, start + count))
            front += [turn["picture_start"], *[self.vlm.image_id] * count, turn["picture_end"]]
        before, after = (torch.tensor(part, dtype=words.dtype, device=words.device) for part in (front, turn["after"]))
        ids = torch.cat([before.expand(len(words), -1), words, after.expand(len(words), -1)], dim=1)
        is_word = observation["attention_mask"] & (words != self.vlm.image_id)
        valid = functional.pad(is_word, (len(before), len(after)), value=True)
        return ids, valid, [*spans, (len(before), len(before) + words.shape[1])]

    def _mask(self, valid: Tensor) -> Tensor:
        length = valid.shape[1]
        places = torch.arange(length, device=valid.device)
        mask = (places <= places[:, None]) & valid[:, None]
        mask = mask | torch.eye(length, dtype=torch.bool, device=valid.device)
        if self.config.reader["sequence"]["bidirectional"]:
            is_action = places >= length - self.action_head.num_tokens
            mask = mask | (is_action[:, None] & valid[:, None])
        return mask

    def _named(self, pictures: list[Picture]) -> dict[str, Tensor]:
        cameras = self.config.reader["cameras"]
        return {f"picture_tokens/{slot}": picture.merged for slot, picture in zip(cameras, pictures, strict=True)}


def additive(mask: Tensor, like: Tensor) -> Tensor:
    """bool [b, q, k] to what is added to scores, [b, 1, q, k]."""
    return torch.where(mask, 0.0, torch.finfo(like.dtype).min).to(like.dtype)[:, None]


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """[b, h, q, f]. Args: query: [b, h, q, f]. key, value: [b, g, k, f]. bias: added to scores, [b or 1, 1, q, k]."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def _keep(found: dict[int, Tensor], index: int) -> Callable[..., None]:
    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        found[index] = output

    return keep


def _positions(valid: Tensor, is_picture: Tensor, grids: list[tuple[int, int]]) -> Tensor:
    """[3, b, n]: text counts on in all three; a picture has one time, rows and columns; padding is at 0."""
    device = valid.device
    places = [np.stack(np.divmod(np.arange(rows * columns), columns)) for rows, columns in grids]
    within = torch.tensor(np.concatenate([*places, np.zeros((2, 1), int)], axis=1), device=device)
    advances = [np.r_[np.zeros(rows * columns - 1, int), max(rows, columns)] for rows, columns in grids]
    past = torch.tensor(np.cumsum(np.concatenate([[0], *advances])), device=device)
    is_text = (valid & ~is_picture).long()
    text_before, pictures_before = (kind.cumsum(-1) - kind for kind in (is_text, is_picture.long()))
    start = text_before + past[pictures_before]
    inside = within[:, pictures_before] * is_picture
    return torch.where(valid, torch.stack([start, start + inside[0], start + inside[1]]), 0)
