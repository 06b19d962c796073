"""What every policy's configuration in PyTorch says. All other keys are those of the JAX training configuration."""

from typing import Any

from transformers import PretrainedConfig


class VlaConfig(PretrainedConfig):
    """See README.md for the action space, its units and frames."""

    model_type = "vla"
    has_no_defaults_at_init = True

    def __init__(
        self,
        action_space: dict[str, Any] | None = None,
        requirements: dict[str, Any] | None = None,
        prompt: dict[str, Any] | None = None,
        frozen: list[str] | None = None,
        **kwargs: Any,
    ):
        """Args:
        requirements: what the model reads: `cameras` [{slot, source, height, width, filter}], `window`,
            `window_anchor` (first: shorter windows are padded on the right; last: on the left, to the whole window),
            `text_length`, `boxes` {slot, count, smallest_side, missing} or None, `depths` [{slot, height, width}].
        prompt: `template` with `{instruction}` in it, and `last_token` or None; None: the instruction alone is read.
        frozen: prefixes of parameter names that do not train unless you unfreeze them.
        """
        self.action_space = action_space or {}
        self.requirements = requirements or {}
        self.prompt = prompt
        self.frozen = frozen or []
        super().__init__(**kwargs)

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """(horizon, action width)."""
        return self.action_space["horizon"], len(self.action_space["dimensions"])

    @property
    def camera_slots(self) -> list[str]:
        return [camera["slot"] for camera in self.requirements["cameras"]]
