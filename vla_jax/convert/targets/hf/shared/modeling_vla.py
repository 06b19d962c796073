"""What every policy in PyTorch does alike: strict loading, freezing, saving, the checks of its inputs, predicting.

A policy derives from `VlaModel`, names its `config_class`, and computes `_stages`, the last of which is `actions`.
Axes: b batch, w window (time steps), y x pixels, t text tokens, h horizon, a action, p proprio, k boxes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_vla import VlaConfig
from .processing_vla import VlaProcessor


@dataclass
class VlaOutput(ModelOutput):
    """What `forward` gives."""

    loss: Tensor | None = None
    """Over the valid targets, in normalised units."""
    actions: Tensor | None = None
    """float32 [b, w, h, a], normalised: each window step's chunk, or the last one's alone (w = 1)."""


class VlaModel(PreTrainedModel):
    """Images, proprio and a sentence to a chunk of actions."""

    config_class = VlaConfig
    processor_class: type[VlaProcessor] = VlaProcessor
    main_input_name = "images"
    _supports_sdpa = True

    def __init__(self, config: VlaConfig):
        super().__init__(config)
        self.processor: VlaProcessor | None = None

    # ---- a policy's own

    def _stages(self, observation: dict[str, Any]) -> dict[str, Tensor]:
        """Intermediate results by name, as the JAX policy's `stages`; `observation` is as `_complete` gives it."""
        raise NotImplementedError

    def _disturbed(self, observation: dict[str, Any]) -> dict[str, Any]:
        """What training adds to an observation, where it adds something."""
        return observation

    def _loss(self, stages: dict[str, Tensor], action: Tensor, action_mask: Tensor) -> Tensor:
        """Mean |predicted - action| over the valid targets. `action` has the window steps of `stages["actions"]`."""
        error = torch.where(action_mask, (stages["actions"] - action).abs(), 0.0)
        return error.sum() / action_mask.sum().clamp(min=1)

    # ---- loading and saving

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As transformers', but a missing, unexpected or mis-shaped tensor is an error, never random weights."""
        strict = kwargs | {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = super().from_pretrained(path, *args, **strict)
        if wrong := {kind: sorted(map(str, names)) for kind, names in info.items() if names}:
            raise ValueError(f"{path}: the weights do not fit this model: {wrong}")
        model.processor = cls.processor_class.from_pretrained(path, **kwargs)
        model.freeze()
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.processor is not None:
            self.processor.save_pretrained(save_directory)

    def freeze(self) -> None:
        """Freezes what was frozen in pretraining; `requires_grad_(True)` undoes it."""
        for name, parameter in self.named_parameters():
            if name.startswith(tuple(self.config.frozen)):
                parameter.requires_grad_(False)

    # ---- computing

    def forward(
        self,
        images: dict[str, Tensor],
        proprio: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_masks: dict[str, Tensor] | None = None,
        timestep_mask: Tensor | None = None,
        action: Tensor | None = None,
        action_mask: Tensor | None = None,
        **inputs: Any,
    ) -> VlaOutput:
        """All that the processor gives for a batch of windows, and optionally the targets.

        Args:
            images: by camera slot, uint8 RGB [b, w, y, x, 3].
            proprio: [b, w, p], normalised.
            input_ids: [b, t].
            attention_mask: bool [b, t]; False: padding on the right.
            image_masks: by camera slot, bool [b, w]; False: no such picture.
            timestep_mask: bool [b, w]; False: padding, on the side that `requirements.window_anchor` leaves to it.
            action: the targets [b, w, h, a], normalised.
            action_mask: bool [b, w, h, a]; False: no target there.
            inputs: `boxes`, `box_masks`, `depths`, `depth_masks`, where the model reads them.
        """
        observation = self._complete(images, proprio, input_ids, attention_mask, image_masks, timestep_mask, **inputs)
        stages = self._stages(self._disturbed(observation) if self.training else observation)
        loss = None
        if action is not None:
            valid = torch.ones_like(action, dtype=torch.bool) if action_mask is None else action_mask
            steps = stages["actions"].shape[1]
            loss = self._loss(stages, action[:, -steps:], valid[:, -steps:])
        return VlaOutput(loss=loss, actions=stages["actions"])

    @torch.no_grad()
    def predict_action(
        self,
        images: dict[str, Any],
        proprio: Any,
        instruction: str,
        unnorm_key: str | None = None,
        **inputs: Any,
    ) -> np.ndarray:
        """One observation to its chunk of actions, float32 [h, a] in the units of the action space.

        Args:
            images: by camera, a picture (PIL, or uint8 RGB [y, x, 3] of any size), or a list of up to `window` of
                them, oldest first; None, or no entry: that camera is missing.
            proprio: [p], or [w, p] with as many rows as there are pictures. Not normalised.
            instruction: the task in words.
            unnorm_key: the dataset whose statistics apply; may be left out where there is only one.
            inputs: where the model reads them, `boxes` of objects (left, upper, right, lower in shares of the whole
                picture, [k, 4] or one such array a step) and `depths` by camera (metres, [y, x] or one a step).
        """
        if self.processor is None:
            raise ValueError("predict_action needs the processor that from_pretrained loads; this model has none")
        batch = self.processor(images, proprio, instruction, unnorm_key, **inputs)
        training = self.training
        self.eval()
        try:
            actions = self(**self.processor.to(batch, self.device)).actions
        finally:
            self.train(training)
        chunk = self.processor.unnormalize_action(actions[0, -1].cpu().numpy(), unnorm_key)
        if not np.isfinite(chunk).all():
            raise ValueError("the predicted actions are not finite; do not run them on a robot")
        return chunk

    @torch.no_grad()
    def stages(self, **observation: Any) -> dict[str, Tensor]:
        """Intermediate results by name, in the order of computation: what this export was compared with JAX by."""
        return self._stages(self._complete(**observation))

    def _complete(
        self,
        images: dict[str, Tensor],
        proprio: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_masks: dict[str, Tensor] | None = None,
        timestep_mask: Tensor | None = None,
        **inputs: Any,
    ) -> dict[str, Any]:
        """The observation with all its masks, checked."""
        needs = self.config.requirements
        cameras = self.config.camera_slots
        if sorted(images) != sorted(cameras):
            raise ValueError(f"images of {sorted(images)}; this model reads {sorted(cameras)}")
        every = torch.ones(proprio.shape[:2], dtype=torch.bool, device=proprio.device)
        if every.shape[1] > needs["window"]:
            raise ValueError(f"a window of {every.shape[1]} steps; the model was trained with {needs['window']}")
        image_masks = image_masks or {}
        wanted = (["boxes", "box_masks"] if needs.get("boxes") else []) + (
            ["depths", "depth_masks"] if needs.get("depths") else []
        )
        if sorted(inputs) != sorted(wanted):
            raise ValueError(f"further inputs {sorted(inputs)}; this model reads {sorted(wanted)}")
        return inputs | {
            "images": images,
            "image_masks": {slot: image_masks.get(slot, every) for slot in cameras},
            "proprio": proprio,
            "timestep_mask": every if timestep_mask is None else timestep_mask,
            "input_ids": input_ids,
            "attention_mask": attention_mask.bool(),
        }
