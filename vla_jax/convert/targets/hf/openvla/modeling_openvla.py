"""OpenVLA in PyTorch: a picture and a sentence go into Llama, which writes the action as tokens, one after another.

Axes: b batch, m picture tokens, n text tokens, s the prompt, t = h * a tokens of the action, h horizon, a action.
Source: OpenVLA (arXiv 2406.09246). Everything that this folder needs is in it.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .configuration_openvla import OpenvlaConfig
from .modeling_vla import VlaModel, VlaOutput
from .prismatic_vla import Prismatic, last_valid, outputs_before


class OpenvlaModel(VlaModel):
    config_class = OpenvlaConfig
    _no_split_modules = ("TowerBlock", "LlamaDecoderLayer")

    def __init__(self, config: OpenvlaConfig):
        super().__init__(config)
        self.vlm = Prismatic(config.vlm)
        self.post_init()

    def forward(self, *args: Any, action: Tensor | None = None, action_mask: Tensor | None = None, **inputs: Any):
        """As of `VlaModel`. With targets it gives the loss alone: actions are written one token after another."""
        if action is None:
            return super().forward(*args, **inputs)
        valid = torch.ones_like(action, dtype=torch.bool) if action_mask is None else action_mask
        return VlaOutput(loss=self._teacher_forced(self._complete(*args, **inputs), action[:, -1], valid[:, -1]))

    def _teacher_forced(self, observation: dict[str, Any], action: Tensor, action_mask: Tensor) -> Tensor:
        """Mean cross-entropy over the tokens of valid targets, and the end of rows that have no other."""
        ids, counts = self.encode(torch.where(action_mask, action, 0.0)).flatten(1), action_mask.flatten(1)
        if (end := self.config.bins["end_id"]) is not None:
            ids = functional.pad(ids, (0, 1), value=end)
            counts = torch.cat([counts, counts.all(dim=1, keepdim=True)], dim=1)
        x, valid = self._prompt(observation, self._picture_tokens(observation))
        given = torch.cat([x, self.vlm.words(ids[:, :-1]).to(x.dtype)], dim=1)
        everything = functional.pad(valid, (0, ids.shape[1] - 1), value=True)
        outputs, _ = self.vlm.read(given, everything, is_causal=True)
        logits = self.vlm.logits(outputs_before(outputs, valid, ids.shape[1]))
        surprise = functional.cross_entropy(logits.transpose(1, 2).float(), ids, reduction="none")
        return torch.where(counts, surprise, 0.0).sum() / counts.sum().clamp(min=1)

    def _stages(self, observation: dict[str, Any]) -> dict[str, Tensor]:
        pictures = self._picture_tokens(observation)
        x, valid = self._prompt(observation, pictures)
        outputs, cache = self.vlm.read(x, valid, is_causal=True)
        last = outputs[torch.arange(len(x), device=x.device), last_valid(valid)]
        return {
            "picture_tokens": pictures,
            "prompt_output": last,
            "first_logits": self.vlm.logits(last),
            "actions": self.decode(self._written(last, valid, cache)).unflatten(1, (1, *self.config.chunk_shape)),
        }

    def _written(self, last: Tensor, valid: Tensor, cache: Any) -> Tensor:
        """The likeliest ids [b, t], one after another."""
        ids = [self.vlm.logits(last).argmax(dim=-1)]
        while len(ids) < int(np.prod(self.config.chunk_shape)):
            valid = functional.pad(valid, (0, 1), value=True)
            outputs, cache = self.vlm.read(self.vlm.words(ids[-1][:, None]), valid, is_causal=True, cache=cache)
            ids.append(self.vlm.logits(outputs[:, -1]).argmax(dim=-1))
        return torch.stack(ids, dim=1)

    def _picture_tokens(self, observation: dict[str, Any]) -> Tensor:
        return self.vlm.picture_tokens(observation["images"][self.config.camera][:, -1])

    def _prompt(self, observation: dict[str, Any], pictures: Tensor) -> tuple[Tensor, Tensor]:
        seen = observation["image_masks"][self.config.camera][:, -1:].expand(pictures.shape[:2])
        return self.vlm.prompt(observation["input_ids"], observation["attention_mask"], pictures, seen)

    # ---- bins

    def encode(self, action: Tensor) -> Tensor:
        """Normalised numbers to ids: edges that do not lie above, counted down from the vocabulary's size."""
        edges = self._edges(action.device)
        counts = torch.bucketize(action.double().clamp(-1, 1), edges, right=True)
        return self.config.action_tokens["vocab_size"] - counts

    def decode(self, ids: Tensor) -> Tensor:
        """The centres of bins, float32."""
        edges = self._edges(ids.device)
        centres = (edges[:-1] + edges[1:]) / 2
        places = (self.config.action_tokens["vocab_size"] - ids - 1).clamp(0, len(centres) - 1)
        return centres[places].float()

    def _edges(self, device: Any) -> Tensor:
        return torch.from_numpy(np.linspace(-1, 1, self.config.action_tokens["num_edges"])).to(device)
