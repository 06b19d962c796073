"""What Qwen3-VL reads as a robot policy: a chat turn with pictures and words, and after it empty action tokens.

    <|im_start|>user\\n <|vision_start|> picture <|vision_end|> ... words <|im_end|>\\n<|im_start|>assistant\\n  actions

Axes: b batch, n tokens, t text tokens, m picture tokens, q action tokens, d width.
Source: DeepVision-VLA section 3.3.1 (QwenVLA-OFT): Z = [V; language; action], causal for the prompt, bidirectional
among the action tokens, which begin as zeros. The turn is Qwen's chat template; the paper does not write it out. It is
put together from token ids here, so that a tokenizer makes ids of the words alone. StarVLA's published QwenOFT has
placeholder words in place of zeros and is causal throughout: `bidirectional=False` is its mask.

Padding between the words and what follows them is masked and takes no position. A missing picture keeps its places and
positions; nothing reads them.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vla_jax.encoders.qwen3_vl import PictureTokens
from vla_jax.nn import masks
from vla_jax.types import SelfMask
from vla_jax.vlms.qwen3_vl import Inputs, Part, Qwen3Vl, Words


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionSequenceConfig:
    """Ids of the turn's fixed parts; the defaults are Qwen's."""

    before: tuple[int, ...] = (151644, 872, 198)
    """<|im_start|>user, a line break."""
    picture_start: int = 151652
    picture_end: int = 151653
    after: tuple[int, ...] = (151645, 198, 151644, 77091, 198)
    """<|im_end|>, a line break, <|im_start|>assistant, a line break."""
    bidirectional: bool = True
    """Action tokens see one another, whatever their order; False: those before them."""

    def fixed_length(self, num_pictures: int) -> int:
        """Tokens of a turn beside its words and pictures."""
        return len(self.before) + 2 * num_pictures + len(self.after)


class ActionSequence(NamedTuple):
    inputs: Inputs
    """`valid` is False at a missing picture's places, too."""
    mask: SelfMask
    """True = may attend."""
    pictures: tuple[tuple[int, int], ...]
    """First place of each picture's tokens, and the one past the last."""
    words: tuple[int, int]
    """Likewise of the text."""
    num_actions: int

    @property
    def actions(self) -> slice:
        return slice(-self.num_actions, None)


def action_sequence(
    model: Qwen3Vl,
    config: ActionSequenceConfig,
    pictures: Sequence[tuple[PictureTokens, Bool[Array, "b"]]],
    text: tuple[Int[Array, "b t"], Bool[Array, "b t"]],
    *,
    num_actions: int,
    state: Float[Array, "b s d"] | None = None,
) -> ActionSequence:
    """Args: pictures: each with whether it is there. text: ids and their mask. state: further tokens of the prompt."""
    parts, spans = _turn(model, config, pictures, text)
    inputs = model.sequence(parts)
    batch, _, width = inputs.embeddings.shape
    if state is not None:
        inputs = inputs.followed_by(state)
    inputs = inputs.followed_by(jnp.zeros((batch, num_actions, width)))
    valid = inputs.valid
    for (start, stop), (_, is_there) in zip(spans[:-1], pictures, strict=True):
        valid = valid.at[:, start:stop].set(is_there[:, None])
    return ActionSequence(
        inputs=inputs._replace(valid=valid),
        mask=masks.causal_over_valid(valid, num_actions if config.bidirectional else 0),
        pictures=tuple(spans[:-1]),
        words=spans[-1],
        num_actions=num_actions,
    )


def _turn(
    model: Qwen3Vl,
    config: ActionSequenceConfig,
    pictures: Sequence[tuple[PictureTokens, Bool[Array, "b"]]],
    text: tuple[Int[Array, "b t"], Bool[Array, "b t"]],
) -> tuple[list[Part], list[tuple[int, int]]]:
    """What stands there, and the places of the pictures and, last, the words.

    The id that stands for pictures' patches is padding where the words have it: nobody writes a picture in words.
    """
    words, is_word = text
    parts: list[Part] = []
    spans, front, length = [], list(config.before), 0
    for picture, _ in pictures:
        parts += [np.array([*front, config.picture_start]), picture]
        start, count = length + len(front) + 1, picture.merged.tokens.shape[1]
        spans.append((start, start + count))
        length, front = start + count, [config.picture_end]
    start = length + len(front)
    parts += [np.array(front), Words(words, is_word & (words != model.config.image_id)), np.array(config.after)]
    return parts, [*spans, (start, start + words.shape[1])]
