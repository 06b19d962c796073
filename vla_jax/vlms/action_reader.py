"""From what a robot sees and is told to what Qwen3-VL reads: the present pictures, the words, empty action tokens.

Axes: b batch, w window (the last step alone is read), y x pixels, p proprio, t text tokens, m merged patches, l layers,
d width, r c rows and columns of a picture's merged patches.
Source: DeepVision-VLA section 3.3.1. It does not say whether proprio is read: it is not, unless `reads_proprio`, which
puts one token with a projection of it before the action tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vla_jax.encoders.qwen3_vl import PictureTokens
from vla_jax.fusion import pruning
from vla_jax.fusion.pruning import PruningConfig, Rows
from vla_jax.nn.linear import linear
from vla_jax.nn.stack import NO_TAPS, Taps
from vla_jax.types import CameraRequirement, InputError, Observation
from vla_jax.vlms.action_sequence import ActionSequence, ActionSequenceConfig, action_sequence
from vla_jax.vlms.qwen3_vl import Qwen3Vl, Qwen3VlConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionReaderConfig:
    cameras: tuple[str, ...] = ("primary",)
    image_size: int = 256
    text_length: int = 30
    """Of the words; with the turn around them and one picture's ends 40 tokens."""
    deepstack: bool = True
    """False: pictures enter before the first layer alone."""
    reads_proprio: bool = False
    sequence: ActionSequenceConfig = ActionSequenceConfig()

    def __post_init__(self):
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise InputError(f"policy.reader.cameras={self.cameras}: one or more different camera slots expected")
        if self.text_length < 1:
            raise InputError(f"policy.reader.text_length={self.text_length}: 1 or more expected")

    def check(self, model: Qwen3VlConfig) -> None:
        """Raises InputError where the model cannot read it."""
        if model.vision is None or model.language is None:
            raise InputError("policy.vlm: both halves are expected")
        side = model.vision.vit.patch_size * model.vision.merge_size
        if self.image_size < 1 or self.image_size % side:
            raise InputError(f"policy.reader.image_size={self.image_size}: a multiple of {side} expected")
        ids = (*self.sequence.before, self.sequence.picture_start, self.sequence.picture_end, *self.sequence.after)
        vocab_size = model.language.decoder.vocab_size
        if beyond := [id for id in (*ids, model.image_id) if not 0 <= id < vocab_size]:
            raise InputError(
                f"policy.reader.sequence: ids {beyond} lie outside the {vocab_size} of the language model; name those "
                "of its own tokenizer"
            )
        if model.image_id in ids:
            raise InputError(f"policy.reader.sequence: {model.image_id} stands for pictures, not for words around them")

    def requirements(self) -> tuple[CameraRequirement, ...]:
        size = self.image_size
        return tuple(CameraRequirement(slot=slot, height=size, width=size) for slot in self.cameras)

    def probe_places(self, model: Qwen3VlConfig) -> "ProbePlaces":
        """Of the first camera."""
        assert model.vision is not None
        assert model.language is not None
        side = self.image_size // (model.vision.vit.patch_size * model.vision.merge_size)
        return ProbePlaces(
            slot=self.cameras[0],
            num_layers=model.language.decoder.num_layers,
            start=len(self.sequence.before) + 1,
            rows=side,
            columns=side,
        )

    def build(self, model: Qwen3VlConfig, proprio_width: int, rngs: nnx.Rngs) -> "ActionReader":
        return ActionReader(self, model, proprio_width, rngs=rngs)


class ProbePlaces(NamedTuple):
    """Where a probe finds a picture among what the language model reads."""

    slot: str
    num_layers: int
    start: int
    """Of its tokens, row by row."""
    rows: int
    columns: int

    @property
    def stop(self) -> int:
        return self.start + self.rows * self.columns


class ActionReader(nnx.Module):
    def __init__(self, config: ActionReaderConfig, model: Qwen3VlConfig, proprio_width: int, *, rngs: nnx.Rngs):
        self.config = config
        assert model.language is not None
        width = model.language.decoder.width
        self.proprio = linear(proprio_width, width, (None, "embed"), rngs=rngs) if config.reads_proprio else None

    def __call__(
        self,
        model: Qwen3Vl,
        observation: Observation,
        *,
        num_actions: int,
        taps: Taps = NO_TAPS,
        beside: Float[Array, "b m w"] | None = None,
    ) -> tuple[ActionSequence, list[PictureTokens]]:
        """Args: taps, beside: of the tower, for the first camera's pictures."""
        assert model.vision is not None, "both halves are there"
        seen = [observation.images[slot][:, -1] for slot in self.config.cameras]
        pictures = [model.vision(seen[0], taps=taps, beside=beside), *map(model.vision, seen[1:])]
        are_there = [observation.image_masks[slot][:, -1] for slot in self.config.cameras]
        sequence = action_sequence(
            model,
            self.config.sequence,
            list(zip(pictures, are_there, strict=True)),
            (observation.instruction_tokens, observation.instruction_mask),
            num_actions=num_actions,
            state=self._state(observation),
        )
        if not self.config.deepstack:
            sequence = sequence._replace(inputs=sequence.inputs._replace(additions=sequence.inputs.additions[:0]))
        return sequence, pictures

    def _state(self, observation: Observation) -> Float[Array, "b 1 d"] | None:
        if self.proprio is None:
            return None
        return self.proprio(observation.proprio[:, -1:].astype(self.proprio.kernel[...].dtype))


def word_attention(
    model: Qwen3Vl, sequence: ActionSequence, pictures: Sequence[PictureTokens], layers: Sequence[int]
) -> list[Float[Array, "b 1 t r c"]]:
    """Where each word looks in each picture, meaned over the heads of `layers`."""
    maps = []
    span = (0, max(layers) + 1)
    for picture, columns in zip(pictures, sequence.pictures, strict=True):
        look = pruning.look(PruningConfig(), Rows(*sequence.words, columns), sequence.mask.dense())
        taps = Taps(projections=tuple(layers), kept=look)
        found = model.hidden(sequence.inputs, mask=sequence.mask, taps=taps, span=span).projections
        assert found is not None
        grid = picture.merged
        maps.append(jnp.mean(found, axis=0).reshape(len(found[0]), 1, -1, grid.rows, grid.columns))
    return maps


def small_reader(image_size: int) -> ActionReaderConfig:
    """For `qwen3_vl.small`: no turn around the words; proprio and the wrist's camera are read."""
    sequence = ActionSequenceConfig(before=(), picture_start=513, picture_end=514, after=())
    return ActionReaderConfig(
        cameras=("primary", "wrist"), image_size=image_size, text_length=16, reads_proprio=True, sequence=sequence
    )


def tiny_reader(config: ActionReaderConfig) -> ActionReaderConfig:
    """For `qwen3_vl.tiny_with_words`."""
    sequence = dataclasses.replace(config.sequence, before=(7, 5), picture_start=516, picture_end=517, after=(9, 8, 6))
    return dataclasses.replace(config, image_size=32, text_length=16, sequence=sequence)
