"""The pytrees and contracts that cross rooms, and the axis legend of the project.

Axes: b batch, w window (time steps that a policy sees), h horizon (future actions predicted at each
window step), a action, p proprio, y x pixels, c camera, t text tokens, n tokens, q queries, d width.

Masks: True = valid. Units are in names or in `Dimension.unit`. Pytree dataclasses live here and in
`training/state.py` only, because the jaxtyping test hook must not decorate them.
"""

import dataclasses
from typing import Any, Literal, NamedTuple, Protocol

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Float32, Int, Key, UInt8


class InputError(ValueError):
    """Bad configuration, data or file: the user's to mend. Commands print its message alone and exit 2.

    The message names the file, the key, what was found, what was expected, and what to do.
    """


Parameters = dict[str, jax.Array]
"""A model's parameters by slash-joined path, e.g. `clip/vision/blocks/attention/query/kernel`."""


class PictureNormalization(NamedTuple):
    """What a picture encoder does to RGB values in 0..1: (x - mean) / std."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# ---------------------------------------------------------------------------------------------
# What a policy declares: its action space and what it reads.


Normalization = Literal["none", "gaussian", "bounds", "quantile"]


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
    normalization: Normalization = "none"
    """`gaussian`: (x - mean) / std. `bounds`: min..max to [-1, 1], clipped; `quantile`: q01..q99. Per dataset."""

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
    source_slot: str | None = None
    """The camera that is shown, where `slot` is a second picture of it at another size, cut and coloured alike
    (`primary_high` of `primary`: DeepVision-VLA). None: `slot` itself."""
    filter: Literal["bicubic", "bilinear", "fast"] = "bicubic"
    """How pictures are resized: Pillow's antialiased bicubic or bilinear (about half the cost), or `fast`: a JPEG is
    decoded at the smallest of libjpeg's sizes that suffices, then bilinear. Whoever deploys the policy repeats it."""

    @property
    def source(self) -> str:
        return self.source_slot or self.slot


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthRequirement:
    """The depth pictures of a camera slot and their size in pixels; cut, turned and mirrored as its colour pictures."""

    slot: str
    height: int
    width: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoxRequirement:
    """Boxes of objects in each picture of a camera, from a sidecar in the cache (DFA-VLA)."""

    count: int = 16
    """Boxes a picture; further ones are left out, missing ones masked."""
    slot: str = "primary"
    smallest_side: float = 1 / 14
    """Share of the picture: a box that is less wide or high after the crop (less than a cell of 14) is masked."""
    missing: Literal["refuse", "grid"] = "refuse"
    """Of a dataset without the sidecar: `grid` puts the squares of a grid in its place (tests, ablations)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoarseChunk:
    """A second chunk of actions at each window step, `stride` steps apart (ACoT-VLA: 50 with a stride of 2)."""

    horizon: int
    stride: int

    def __post_init__(self):
        if self.horizon < 1 or self.stride < 1:
            raise InputError(f"coarse chunk: horizon={self.horizon}, stride={self.stride}: at least 1 expected")


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
    """Further per-step tables, by name; none is known yet."""
    boxes: BoxRequirement | None = None
    depths: tuple[DepthRequirement, ...] = ()
    goals: tuple[str, ...] = ()
    """Slots of `cameras` of which the picture of a goal is wanted: a later step of the episode, drawn evenly. Actions
    from it on are masked, but for the next one."""
    pair_offset: int | None = None
    """k: wants the pictures k steps after each window step (frame pairs, as latent action models read them)."""
    coarse: CoarseChunk | None = None
    octo_compat: bool = False
    """True: the action mask of Octo's published code, which begins late (`transforms/chunk.py`)."""

    def __post_init__(self):
        slots = [camera.slot for camera in self.cameras]
        if unknown := sorted(set(self.goals) - set(slots)):
            raise InputError(f"data requirements: goals of {unknown}, which are no cameras; those are {slots}")
        depths = [depth.slot for depth in self.depths]
        if len(set(depths)) != len(depths):
            raise InputError(f"data requirements: depths of {depths}: each slot once expected")
        if self.pair_offset is not None and self.pair_offset < 1:
            raise InputError(f"data requirements: pair_offset={self.pair_offset}: at least 1 expected")
        if self.boxes is not None and self.boxes.slot not in slots:
            raise InputError(f"data requirements: boxes of {self.boxes.slot!r}, which is no camera; those are {slots}")

    @property
    def reach(self) -> int:
        """Steps, from a window's last on, that its targets may rest on."""
        coarse = 0 if self.coarse is None else (self.coarse.horizon - 1) * self.coarse.stride + 1
        return max(self.action_space.horizon, coarse)


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
    """All False, or special tokens only, where the task is told by the goal's picture alone."""
    goal_images: dict[str, UInt8[Array, "b y x 3"]] | None = None
    """By camera slot, where `DataRequirements.goals` asks for them; cut and coloured like the observation's."""
    goal_masks: dict[str, Bool[Array, "b"]] | None = None
    """False where there is no such camera, or the task is told by the instruction alone."""
    boxes: Float[Array, "b w k 4"] | None = None
    """Left, upper, right, lower, in shares of the picture as the policy sees it. All zero where the mask is False."""
    box_masks: Bool[Array, "b w k"] | None = None
    depths: dict[str, Float32[Array, "b w y x"]] | None = None
    """By camera slot, where `DataRequirements.depths` asks for them; metres. 0: none measured there, or mask False."""
    depth_masks: dict[str, Bool[Array, "b w"]] | None = None
    """False where the dataset has no such depth camera or its unit is not known, or the window step is padding."""


@struct.dataclass
class Batch:
    """One global (or one host's) batch of training windows."""

    observation: Observation
    action: Float[Array, "b w h a"]
    """At each window step the next `horizon` actions, normalised; the last one repeated past the end."""
    action_mask: Bool[Array, "b w h a"]
    """False past the episode's end, from the goal's step on where there is a goal, in padded window steps, and in
    dimensions the embodiment lacks."""
    sample_ids: Int[Array, "b 3"]
    """(dataset, episode, step): index in the mixture, index in the split, the sampled step. int32."""
    sample_index: Int[Array, "b"] | None = None
    """Place in the order of all samples of the run, modulo 2^32; uint32. Keys of augmentation come from it, so that a
    picture does not depend on mesh, hosts, or what was read before."""
    coarse_action: Float[Array, "b w c a"] | None = None
    """As `action`, `DataRequirements.coarse` apart."""
    coarse_action_mask: Bool[Array, "b w c a"] | None = None
    later_images: dict[str, UInt8[Array, "b w y x 3"]] | None = None
    """By camera slot: the pictures `DataRequirements.pair_offset` steps later; the last one repeated past the end."""
    later_masks: dict[str, Bool[Array, "b w"]] | None = None
    """False past the episode's end, and where there is no such picture."""
    target_box: Int[Array, "b w"] | None = None
    """The box that the task is about, or -1: not known, cut away, or padding. int32."""


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
class SelfMask:
    """Who sees whom in self-attention, said in a form that a kernel can be told without t x t booleans.

    Position q sees those of the first `reach[q]` positions that are valid, and itself, so that no row is empty. Causal:
    a reach of 1, 2, ..., t. All to all: t throughout. A prefix of n that sees all of itself: n at least.
    """

    valid: Bool[Array, "b t"]
    reach: tuple[int, ...] = struct.field(pytree_node=False)

    def dense(self) -> Bool[Array, "b t t"]:
        places = np.arange(len(self.reach))
        near = places < np.array(self.reach)[:, None]
        return (near & self.valid[:, None]) | (places == places[:, None])


Mask = SelfMask | Bool[Array, "..."]
"""Of attention, True = may attend. Booleans are [q, k] or [b, q, k]."""


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
    """Outputs of the blocks that were asked for, in order; patches only."""
    projections: Any | None = None
    """`nn.attention.Projections` of the layers that were asked for, in order; of all tokens, the prefix first."""


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
