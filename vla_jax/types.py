"""The pytrees and contracts that cross rooms, and the axis legend of the project.

Axes: b batch, w window (time steps that a policy sees), h horizon (future actions predicted at each
window step), a action, p proprio, y x pixels, c camera, t text tokens, n tokens, q queries, d width.

Masks: True = valid. Units are in names or in `Dimension.unit`. Pytree dataclasses live here and in
`training/state.py` only, because the jaxtyping test hook must not decorate them.
"""

import dataclasses
from typing import Literal, Protocol

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, UInt8


class InputError(ValueError):
    """Bad configuration, data or file: the user's to mend. Commands print its message alone and exit 2.

    The message names the file, the key, what was found, what was expected, and what to do.
    """


Parameters = dict[str, jax.Array]
"""A model's parameters by slash-joined path, e.g. `clip/vision/blocks/attention/query/kernel`."""

# ---------------------------------------------------------------------------------------------
# What a policy declares: its action space and what it reads.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dimension:
    """One dimension of an action or proprio vector."""

    name: str
    unit: str
    normalize: bool = True
    """False: passes through normalisation unchanged (grippers)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionSpace:
    """What a policy's action chunk means. The one source of it: every dataset maps into it or is refused.

    Grippers, commanded and measured, are openness: 1 open, 0 closed.
    """

    form: str
    """The module of `data_pipelines/action_spaces` that builds the targets and undoes them."""
    horizon: int
    """Future actions predicted at each window step."""
    dimensions: tuple[Dimension, ...]
    proprio: tuple[Dimension, ...]
    normalization: Literal["none", "gaussian", "quantile"] = "none"
    """`gaussian`: (x - mean) / std. `quantile`: q01..q99 to [-1, 1], clipped. Per dataset."""

    def __post_init__(self):
        if self.horizon < 1:
            raise InputError(f"action_space.horizon={self.horizon}: at least 1 expected")

    @property
    def action_width(self) -> int:
        return len(self.dimensions)

    @property
    def proprio_width(self) -> int:
        return len(self.proprio)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraRequirement:
    """A camera slot (`primary`, `secondary`, `wrist`, ...) and the size of its pictures in pixels."""

    slot: str
    height: int
    width: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataRequirements:
    """All that a policy reads. The pipeline reads nothing else."""

    action_space: ActionSpace
    cameras: tuple[CameraRequirement, ...]
    window: int
    """Time steps in an observation."""
    window_anchor: Literal["first", "last"]
    """`first`: a window starts at the sampled step and is padded on the right where the episode ends
    (EF-VLA: every window step is supervised; an episode gives max(1, length - window + 1) windows).
    `last`: it ends there and is padded on the left where the episode starts (an episode gives one
    window a step)."""
    text_length: int
    """Text tokens, padded or cut."""
    vocab_size: int | None = None
    """Token ids lie below it."""
    sidecars: tuple[str, ...] = ()
    """Further per-step tables, by name (e.g. `boxes` of DFA-VLA)."""


class Tokenize(Protocol):
    """How text reaches the data pipeline: as a callable, never as a tokenizer class."""

    def __call__(self, texts: list[str]) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Gives int32 token ids and their mask, padded to `DataRequirements.text_length`."""
        ...


# ---------------------------------------------------------------------------------------------
# What flows: batches.


@struct.dataclass
class Observation:
    """What a policy sees. Leaves are numpy on the host, `jax.Array` in a step."""

    images: dict[str, UInt8[Array, "b w y x 3"]]
    """By camera slot; RGB, 0..255. All zero where the mask is False."""
    image_masks: dict[str, Bool[Array, "b w"]]
    """False where the dataset has no such camera, or the window step is padding."""
    proprio: Float[Array, "b w p"]
    """Normalised as the action space says; see `ActionSpace.proprio`."""
    timestep_mask: Bool[Array, "b w"]
    """False where the window step lies outside the episode."""
    instruction_tokens: Int[Array, "b t"]
    instruction_mask: Bool[Array, "b t"]


@struct.dataclass
class Batch:
    """One global (or one host's) batch of training windows."""

    observation: Observation
    action: Float[Array, "b w h a"]
    """At each window step the next `horizon` actions, normalised; the last one repeated past the end."""
    action_mask: Bool[Array, "b w h a"]
    """False past the episode's end, in padded window steps, and in dimensions the embodiment lacks."""
    sample_ids: Int[Array, "b 3"]
    """(dataset, episode, step): index in the mixture, index in the split, the sampled step. int32."""


@struct.dataclass
class Losses:
    """What a policy's loss gives."""

    total: Float[Array, ""]
    """Mean over the supervised targets of the batch: the value to be differentiated."""
    weight: Float[Array, ""]
    """Number of supervised targets; averages over micro-batches weigh with it."""
    terms: dict[str, Float[Array, ""]]
    """Named parts, for the metrics."""


# ---------------------------------------------------------------------------------------------
# What rooms hand to one another inside a policy.


@struct.dataclass
class TokenGrid:
    """An encoder's patch tokens with the grid that they came from."""

    tokens: Float[Array, "b n d"]
    """Row-major over the grid, without class or register tokens."""
    rows: int = struct.field(pytree_node=False)
    columns: int = struct.field(pytree_node=False)
    prefix: Float[Array, "b m d"] | None = None
    """Class and register tokens, where the encoder has them."""
    layers: Float[Array, "l b n d"] | None = None
    """Outputs of the blocks that were asked for, in order."""


@struct.dataclass
class PolicyContext:
    """Everything that an action decoder may condition on. A policy fills what it has.

    `queries` are the read-outs, one a window step and predicted slot; decoders that read a prefix use
    `tokens` with `mask`, those coupled to a language model its `hidden_states` or `key_values`.
    """

    queries: Float[Array, "b w d"] | None = None
    tokens: Float[Array, "b n d"] | None = None
    mask: Bool[Array, "b n"] | None = None
    hidden_states: Float[Array, "l b n d"] | None = None
    key_values: tuple[Array, Array] | None = None
    proprio: Float[Array, "b w p"] | None = None
    timestep_mask: Bool[Array, "b w"] | None = None


class ActionDecoder(Protocol):
    """An action decoder: context to loss, context to actions. One file each in `vla_jax/actions`."""

    def loss(
        self,
        context: PolicyContext,
        action: Float[Array, "b w h a"],
        action_mask: Bool[Array, "b w h a"],
        *,
        key: Key[Array, ""] | None,
    ) -> Losses:
        """`key=None` means deterministic (no dropout, no noise)."""
        ...

    def sample(self, context: PolicyContext, *, key: Key[Array, ""] | None) -> Float[Array, "b w h a"]:
        """Normalised actions at every window step."""
        ...
