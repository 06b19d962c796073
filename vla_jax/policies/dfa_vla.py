"""DFA-VLA: words choose among visual tokens after three blocks of a language model; the rest reads the chosen few.

Axes: b batch, w window, f frames, y x pixels, r c rows and columns of the grid, k boxes, t text tokens, n tokens,
e width of the encoder, d width of the language model, h horizon, a action.
Source: DFA-VLA section 3, Eq. 1-16, and its Models 1-5 (Table 3). What the paper leaves open is settled so; each key
of the configuration has the other readings:
    grid_mode    S = 14 is a patch of 16 at 224, DINOv2's is 14: the encoder sees 14/16 of `resolution`
    boxes        SAM's, from the sidecar; the squares of a grid where an observation has none
    frames       3 frames through an inflated patch embedding (`encoders/frame_stack.py`), missing ones as the last
    attention    both ways in the first three blocks, else words would not see the picture; causal after them
    candidates   Eq. 9 chooses from V_proj itself, not from what the first blocks made of it
    sequence     blocks 4 to 32 read [H_text ; F], each at the position that it had
    models       3: the full DFAF without boxes; 4: alpha = 1/2; 1: ViT and CNN, multiplied with the text
    L_align      in Model 2, which has no DFAF: t is Mean(H_text) after three blocks as well; in Model 3: in_batch
Differs: predicts at the last window step alone; masked targets, missing pictures, padded text and boxes count nothing.
Depth is optional and not in the presets. Proprio is not read, as in the paper, but by `proprio_token`.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from vla_jax.actions.transformer_regression import TransformerRegressionConfig
from vla_jax.encoders import dinov2, imagenet_vit
from vla_jax.encoders.dinov2 import Dinov2Config
from vla_jax.encoders.frame_stack import DepthConfig, FrameStackConfig
from vla_jax.encoders.imagenet_vit import ImagenetVitConfig
from vla_jax.encoders.vit import VitConfig, vit_tiny
from vla_jax.fusion.contrast import ContrastConfig
from vla_jax.fusion.dfaf import DfafConfig, Fused, GateConfig
from vla_jax.fusion.elementwise import ElementwiseConfig
from vla_jax.fusion.mvsm import MvsmConfig, VisualTokens, grid_boxes, inside_box
from vla_jax.language import llama
from vla_jax.language.decoder import DecoderConfig
from vla_jax.language.llama import LlamaConfig
from vla_jax.nn import masks
from vla_jax.nn.linear import linear
from vla_jax.nn.norms import RmsNormConfig
from vla_jax.nn.similarity import cosines, masked_mean
from vla_jax.nn.stack import Span
from vla_jax.policies.base import Policy, PolicyConfig, PretrainedPart
from vla_jax.types import (
    ActionSpace,
    Batch,
    BoxRequirement,
    CameraRequirement,
    DataRequirements,
    DepthRequirement,
    InputError,
    Losses,
    Observation,
    PolicyContext,
)

CELL = 16
"""Pixels of `resolution` a side of a cell of the grid: S = 14 at 224."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DfaVlaConfig(PolicyConfig):
    dinov2: Dinov2Config | None = dinov2.dinov2_base()
    """The encoder; or one of the next two."""
    imagenet_vit: ImagenetVitConfig | None = None
    scratch_vision: VitConfig | None = None
    """Has no released weights; an exported one is transformers' ViT, which knows class token and learned positions."""
    encoder_weights: str | None = None
    """A local Hugging Face folder, or one that `python -m vla_jax import` made."""
    language: LlamaConfig = llama.llama2_7b()
    language_weights: str | None = None
    frozen: tuple[Literal["encoder", "language"], ...] = ()
    """Parts that do not train."""
    camera: str = "primary"
    resolution: int = 224
    """Pixels of a side."""
    grid_mode: Literal["input_resize", "feature_resize", "native"] = "input_resize"
    """How the grid gets its resolution / 16 cells a side: by the size of the picture that the encoder sees, or of its
    features. `native`: it has as many cells as the encoder gives."""
    num_frames: int = 3
    frames: Literal["inflate", "mean", "concatenate"] = "inflate"
    """Of more than one: one encoder over all; or over each, then the mean of their features; or all their tokens."""
    depth: DepthConfig | None = None
    text_length: int = 32
    boxes: BoxRequirement | None = BoxRequirement()
    """None: there are no local features (k = 0)."""
    mvsm: MvsmConfig = MvsmConfig()
    dfaf: DfafConfig | None = DfafConfig()
    """None: nothing is left out after the first blocks."""
    elementwise: ElementwiseConfig | None = None
    """Set: Model 1. The language model reads the text alone."""
    contrast: ContrastConfig | None = ContrastConfig()
    prefix_layers: int = 3
    """Blocks before the choice."""
    attention: Literal["mutual_prefix", "causal", "mutual"] = "mutual_prefix"
    order: Literal["text_first", "vision_first"] = "text_first"
    candidates: Literal["projected", "hidden"] = "projected"
    """What is chosen from: V_proj, or what the first blocks made of it."""
    applied: Literal["once", "each_block"] = "once"
    """`each_block`: tokens are also mixed (Eq. 10), not chosen, after each of the first blocks but the last."""
    sequence: Literal["joined", "fused_only"] = "joined"
    """What the other blocks read: [H_text ; F], or F."""
    align_weight: float = 0.5
    """lambda 1 of Eq. 13."""
    mask_weight: float = 0.5
    """lambda 2."""
    proprio_token: bool = False
    """True: what is decoded from has a token of proprio as well."""
    head: TransformerRegressionConfig = TransformerRegressionConfig()

    def __post_init__(self):
        if sum(part is not None for part in (self.dinov2, self.imagenet_vit, self.scratch_vision)) != 1:
            raise InputError("policy: exactly one of dinov2, imagenet_vit and scratch_vision is expected")
        if self.text_length < 1 or self.num_frames < 1:
            raise InputError(
                f"policy: text_length={self.text_length}, num_frames={self.num_frames}: 1 or more each expected"
            )
        if not 0 < self.prefix_layers < self.language.decoder.num_layers:
            raise InputError(
                f"policy.prefix_layers={self.prefix_layers}: of {self.language.decoder.num_layers} blocks, some are to "
                "come before the choice and some after it"
            )
        if self.depth is not None and self.frames != "inflate":
            raise InputError(f"policy.depth joins the patch embedding: frames='inflate', not {self.frames!r}, expected")
        if self.picture_size % self.vit.patch_size or self.resolution % CELL:
            raise InputError(
                f"policy.resolution={self.resolution}: a multiple of {CELL}, and of the encoder's patch "
                f"({self.vit.patch_size}) with grid_mode={self.grid_mode!r}, expected"
            )
        if self.boxes is None and self.contrast is not None and self.contrast.positive != "in_batch":
            raise InputError(f"policy.contrast.positive={self.contrast.positive!r} needs boxes; choose in_batch")
        if self.elementwise is not None and not (self.dfaf is None and self.contrast is None and self.boxes is None):
            raise InputError(
                "policy.elementwise is set: dfaf, contrast and boxes have no place beside it; none expected"
            )

    @property
    def encoder(self) -> Dinov2Config | ImagenetVitConfig | VitConfig:
        found = self.dinov2 or self.imagenet_vit or self.scratch_vision
        assert found is not None, "__post_init__ asks for it"
        return found

    @property
    def vit(self) -> VitConfig:
        return self.encoder if isinstance(self.encoder, VitConfig) else self.encoder.vit

    @property
    def cells(self) -> int:
        """S."""
        return self.resolution // CELL

    @property
    def picture_size(self) -> int:
        """Pixels of a side of what the encoder sees."""
        return self.cells * self.vit.patch_size if self.grid_mode == "input_resize" else self.resolution

    @property
    def decoder(self) -> DecoderConfig:
        """No words are said."""
        return dataclasses.replace(self.language.decoder, has_head=False)

    def build(self, rngs: nnx.Rngs) -> "DfaVla":
        return DfaVla(self, rngs=rngs) if self.elementwise is None else DfaBaseline(self, rngs=rngs)

    def data_requirements(self) -> DataRequirements:
        size = self.picture_size
        boxes = self.boxes
        if boxes is not None:
            boxes = dataclasses.replace(boxes, slot=self.camera, smallest_side=1 / self.cells)
        depth = DepthRequirement(slot=self.camera, height=size, width=size)
        return DataRequirements(
            action_space=self.action_space,
            cameras=(CameraRequirement(slot=self.camera, height=size, width=size),),
            window=self.num_frames,
            window_anchor="last",
            text_length=self.text_length,
            vocab_size=self.decoder.vocab_size,
            boxes=boxes,
            depths=() if self.depth is None else (depth,),
        )

    def frozen_paths(self) -> tuple[str, ...]:
        return tuple(f"{part}/.*" for part in self.frozen)

    def pretrained_parts(self) -> tuple[PretrainedPart, ...]:
        language = PretrainedPart(
            prefix="language",
            family="llama",
            path=self.language_weights,
            frozen="language" in self.frozen,
            settings=self.language.settings(),
            reads_text=True,
        )
        encoder = PretrainedPart(
            prefix="encoder",
            family="dinov2" if self.dinov2 else "imagenet_vit",
            path=self.encoder_weights,
            frozen="encoder" in self.frozen,
            settings={} if isinstance(self.encoder, VitConfig) else self.encoder.settings(),
            normalization=(self.vit.normalization,),
        )
        return (encoder, language)


class Part(NamedTuple):
    """A stretch of the language model's sequence."""

    tokens: Float[Array, "b n d"]
    mask: Bool[Array, "b n"]
    positions: Int[Array, "b n"]


class Reading(NamedTuple):
    """All that a policy makes of an observation."""

    features: Float[Array, "b f r c e"]
    text: Part
    """H_text."""
    visual: VisualTokens | None
    fused: Fused | None
    memory: Part
    """Y, what actions are decoded from."""


class DfaVla(Policy):
    """Models 2 to 5."""

    def __init__(self, config: DfaVlaConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = config.encoder.build(rngs)
        stacked = config.frames == "inflate" and (config.num_frames > 1 or config.depth is not None)
        stack = FrameStackConfig(num_frames=config.num_frames, depth=config.depth)
        self.frames = stack.build(config.vit, rngs) if stacked else None
        self.language = config.decoder.build(rngs)
        self._build_fusion(rngs)
        memory_width = config.decoder.width if config.elementwise is None else config.elementwise.width
        proprio_width = config.action_space.proprio_width
        self.proprio = linear(proprio_width, memory_width, (None, "embed"), rngs=rngs) if config.proprio_token else None
        self.head = config.head.build(memory_width, config.action_space, rngs)

    def _build_fusion(self, rngs: nnx.Rngs) -> None:
        config, width = self.config, self.config.decoder.width
        cells = config.cells if config.grid_mode == "feature_resize" else None
        self.mvsm = dataclasses.replace(config.mvsm, cells=cells).build(config.vit.width, width, rngs)
        self.dfaf = None if config.dfaf is None else config.dfaf.build(width, rngs)
        self.contrast = None if config.contrast is None else config.contrast.build(rngs)

    def loss(self, batch: Batch, *, key: Key[Array, ""] | None) -> Losses:
        """Eq. 13."""
        found = self.read(batch.observation)
        action, mask = batch.action[:, -1:], batch.action_mask[:, -1:]
        losses = self.head.loss(self._context(found, batch.observation), action, mask, key=key)
        more = self._alignment(found, batch)
        weights = {"align": self.config.align_weight, "mask": self.config.mask_weight}
        total = losses.total + sum(weights[name] * value for name, value in more.items())
        return Losses(total=total, weight=losses.weight, terms={"action": losses.total, **losses.terms, **more})

    def act(self, observation: Observation, *, key: Key[Array, ""] | None = None) -> Float[Array, "b h a"]:
        return self.head.sample(self._context(self.read(observation), observation), key=key)[:, 0]

    def stages(self, observation: Observation) -> dict[str, Array]:
        """Zero where a token is masked from `fused_tokens` on: which of masked ones are chosen is nobody's concern."""
        found = self.read(observation)
        stages = {"features": found.features}
        if found.visual is not None:
            stages["visual_tokens"] = found.visual.tokens
        stages["text_states"] = found.text.tokens
        if found.fused is not None:
            stages["probabilities"] = found.fused.probabilities
            stages["fused_tokens"] = jnp.where(found.fused.mask[..., None], found.fused.tokens, 0)
        stages["hidden"] = jnp.where(found.memory.mask[..., None], found.memory.tokens, 0)
        stages["actions"] = self.head.sample(self._context(found, observation), key=None)
        return stages

    def attention_maps(self, observation: Observation) -> dict[str, Float[Array, "b w t r c"]]:
        """Eq. 9 as weights: where in the grid of the last frame each text token finds what is like it."""
        found = self.read(observation)
        assert found.visual is not None
        rows, columns = self._grid(found)
        end = found.visual.tokens.shape[1] - found.visual.num_local
        tokens = found.visual.tokens[:, end - rows * columns : end]
        temperature = 0.07 if self.config.dfaf is None else self.config.dfaf.temperature
        weights = jax.nn.softmax(cosines(found.text.tokens, tokens) / temperature, axis=-1)
        return {self.config.camera: weights.reshape(*weights.shape[:2], rows, columns)[:, None]}

    def read(self, observation: Observation) -> Reading:
        config = self.config
        features, seen = self.features(observation)
        boxes, box_mask = self._boxes(observation, len(features))
        visual = self.mvsm(features, seen, boxes, box_mask)
        text, vision = self._parts(observation, visual)
        ends = range(1, config.prefix_layers + 1) if config.applied == "each_block" else [config.prefix_layers]
        start = 0
        for end in ends:
            if start and self.dfaf is not None:
                candidates = visual.tokens if config.candidates == "projected" else vision.tokens
                vision = vision._replace(tokens=self.dfaf.mix(text.tokens, text.mask, candidates))
            both = self._blocks(self._join(text, vision), (start, end), config.attention != "causal")
            text, vision = self._split(both, text.tokens.shape[1])
            start = end
        fused = None
        if self.dfaf is not None:
            candidates = visual.tokens if config.candidates == "projected" else vision.tokens
            fused = self.dfaf(text.tokens, text.mask, candidates, visual.mask)
            vision = self._chosen(fused, text, vision)
        alone = config.sequence == "fused_only"
        sequence = vision if alone else self._join(text, vision)
        memory = self._blocks(sequence, (config.prefix_layers, None), config.attention == "mutual")
        return Reading(features, text, visual, fused, memory)

    def features(self, observation: Observation) -> tuple[Float[Array, "b f r c e"], Bool[Array, "b f"]]:
        """V_global of one or more frames, the current one last, and which of them there are."""
        slot, count = self.config.camera, self.config.num_frames
        index = _current(observation)[:, None] - jnp.arange(count)[::-1]
        place = jnp.maximum(index, 0)
        frames = jnp.take_along_axis(observation.images[slot], place[..., None, None, None], axis=1)
        seen = jnp.take_along_axis(observation.image_masks[slot] & observation.timestep_mask, place, axis=1)
        seen = seen & (index >= 0) & seen[:, -1:]
        if self.config.frames == "inflate":
            embedded = None
            if self.frames is not None:
                embedded = self.frames(self.encoder.patches, frames, seen, self._depths(observation, place))
            grid = self.encoder(frames[:, -1], embedded=embedded)
            return grid.tokens.reshape(len(frames), 1, grid.rows, grid.columns, -1), seen[:, -1:]
        grid = self.encoder(frames.reshape(-1, *frames.shape[2:]))
        features = grid.tokens.reshape(len(frames), count, grid.rows, grid.columns, -1)
        if self.config.frames == "concatenate":
            return features, seen
        weights = seen / jnp.maximum(seen.sum(axis=1, keepdims=True), 1)
        mean = jnp.einsum("bf,bfrce->brce", weights.astype(features.dtype), features)
        return mean[:, None], seen[:, -1:]

    def _depths(self, observation: Observation, place: Int[Array, "b f"]) -> Float[Array, "b f y x"] | None:
        if observation.depths is None or observation.depth_masks is None or self.config.depth is None:
            return None
        depths, measured = observation.depths[self.config.camera], observation.depth_masks[self.config.camera]
        depths = jnp.where(measured[..., None, None], depths, 0)
        return jnp.take_along_axis(depths, place[..., None, None], axis=1)

    def _boxes(
        self, observation: Observation, batch: int
    ) -> tuple[Float[Array, "b k 4"] | None, Bool[Array, "b k"] | None]:
        if self.config.boxes is None:
            return None, None
        if observation.boxes is None or observation.box_masks is None:
            boxes = jnp.asarray(grid_boxes(self.config.boxes.count))
            return jnp.broadcast_to(boxes, (batch, *boxes.shape)), jnp.ones((batch, len(boxes)), bool)
        step = _current(observation)
        boxes = jnp.take_along_axis(observation.boxes, step[:, None, None, None], axis=1)[:, 0]
        return boxes, jnp.take_along_axis(observation.box_masks, step[:, None, None], axis=1)[:, 0]

    def _parts(self, observation: Observation, visual: VisualTokens) -> tuple[Part, Part]:
        """T and V_proj; the one that comes first has the positions from 0 on."""
        mask = observation.instruction_mask
        words = self.language.embed(jnp.where(mask, observation.instruction_tokens, 0))
        (batch, length), count = mask.shape, visual.tokens.shape[1]
        starts = (0, length) if self.config.order == "text_first" else (count, 0)
        text, vision = (
            jnp.broadcast_to(start + jnp.arange(number), (batch, number))
            for start, number in zip(starts, (length, count))
        )
        return Part(words, mask, text), Part(visual.tokens.astype(words.dtype), visual.mask, vision)

    def _join(self, text: Part, vision: Part) -> Part:
        parts = (text, vision) if self.config.order == "text_first" else (vision, text)
        return Part(*(jnp.concatenate(each, axis=1) for each in zip(*parts)))

    def _split(self, both: Part, length: int) -> tuple[Part, Part]:
        """The text, of `length` tokens, and the rest."""
        first = length if self.config.order == "text_first" else both.tokens.shape[1] - length
        parts = Part(*(array[:, :first] for array in both)), Part(*(array[:, first:] for array in both))
        return parts if self.config.order == "text_first" else parts[::-1]

    def _blocks(self, part: Part, span: Span, mutual: bool) -> Part:
        mask = masks.all_over_valid(part.mask) if mutual else masks.causal_over_valid(part.mask)
        rotation = self.language.rotation(part.positions)
        return part._replace(tokens=self.language.hidden(part.tokens, mask=mask, rotation=rotation, span=span).tokens)

    @staticmethod
    def _chosen(fused: Fused, text: Part, vision: Part) -> Part:
        """F, where it stood; where each token belongs to a word: as many behind the sequence's first visual place."""
        if fused.places is None:
            positions = vision.positions[:, :1] + jnp.arange(text.tokens.shape[1])
        else:
            positions = jnp.take_along_axis(vision.positions, fused.places, axis=1)
        return Part(fused.tokens, fused.mask, positions)

    def _context(self, found: Reading, observation: Observation) -> PolicyContext:
        mask = found.memory.mask
        tokens = jnp.where(mask[..., None], found.memory.tokens, 0)
        mask = mask | ~mask.any(axis=1, keepdims=True)  # where there is nothing, zeros are read
        if self.proprio is not None:
            now = jnp.take_along_axis(observation.proprio, _current(observation)[:, None, None], axis=1)
            tokens = jnp.concatenate([tokens, self.proprio(now.astype(tokens.dtype))], axis=1)
            mask = jnp.concatenate([mask, jnp.ones_like(mask[:, :1])], axis=1)
        return PolicyContext(tokens=tokens, mask=mask)

    def _alignment(self, found: Reading, batch: Batch) -> dict[str, Float[Array, ""]]:
        """L_align and L_mask, means over the samples of the batch that have one."""
        visual, losses = found.visual, {}
        if visual is None:
            return {}
        valid = found.text.mask.any(axis=1) & visual.mask.any(axis=1)
        target = None
        if batch.target_box is not None:
            target = jnp.take_along_axis(batch.target_box, _current(batch.observation)[:, None], axis=1)[:, 0]
        if self.contrast is not None:
            text = masked_mean(found.text.tokens, found.text.mask)
            tokens, mask = (visual.tokens, visual.mask) if found.fused is None else found.fused[:2]
            pooled = masked_mean(tokens, mask)
            losses["align"] = self.contrast(text, visual.local, visual.local_mask, target, pooled, valid)
        if self.dfaf is not None and found.fused is not None:
            inside = self._inside(found, batch.observation, target)
            losses["mask"] = self.dfaf.mask_loss(found.fused, visual.mask, inside)
        return {name: total / jnp.maximum(count, 1) for name, (total, count) in losses.items()}

    def _inside(self, found: Reading, observation: Observation, target: Int[Array, "b"] | None) -> Bool[Array, "b n"]:
        """The visual tokens in the box of the task."""
        assert found.visual is not None
        boxes, _ = self._boxes(observation, len(found.features))
        if boxes is None or target is None:
            return jnp.zeros(found.visual.mask.shape, bool)
        return inside_box(boxes, target, *self._grid(found), num_frames=found.features.shape[1])

    def _grid(self, found: Reading) -> tuple[int, int]:
        """Rows and columns of the visual tokens of a frame."""
        if self.config.grid_mode == "feature_resize":
            return self.config.cells, self.config.cells
        _, _, rows, columns, _ = found.features.shape
        return rows, columns


class DfaBaseline(DfaVla):
    """Model 1: the picture and the whole text as a vector each, element by element."""

    def _build_fusion(self, rngs: nnx.Rngs) -> None:
        config = self.config
        assert config.elementwise is not None
        self.elementwise = config.elementwise.build(config.vit.width, config.decoder.width, rngs)

    def read(self, observation: Observation) -> Reading:
        features, seen = self.features(observation)
        mask = observation.instruction_mask
        words = self.language.embed(jnp.where(mask, observation.instruction_tokens, 0))
        positions = jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)
        text = self._blocks(Part(words, mask, positions), (0, None), self.config.attention == "mutual")
        grid = jnp.where(seen[:, -1, None, None, None], features[:, -1], 0)
        out = self.elementwise(grid, masked_mean(text.tokens, mask))
        tokens = out.fused[:, None]
        if self.elementwise.config.keep_map:
            tokens = jnp.concatenate([tokens, out.map], axis=1)
        everything = jnp.ones(tokens.shape[:2], bool)
        memory = Part(tokens, everything, jnp.zeros(tokens.shape[:2], jnp.int32))
        return Reading(features, text, None, None, memory)

    def _alignment(self, found: Reading, batch: Batch) -> dict[str, Float[Array, ""]]:
        return {}


def _current(observation: Observation) -> Int[Array, "b"]:
    """The last step of each window that is one."""
    steps = jnp.arange(observation.timestep_mask.shape[1])
    return jnp.where(observation.timestep_mask, steps, 0).max(axis=1)


def dfa_vla(action_space: ActionSpace) -> DfaVlaConfig:
    """Model 5: MVSM and the full DFAF with a learned gate."""
    return DfaVlaConfig(action_space=action_space)


def dfa_model1(action_space: ActionSpace) -> DfaVlaConfig:
    """ViT-B/16 and a CNN, Llama on the text alone, multiplied."""
    config = dataclasses.replace(dfa_model3(action_space), dfaf=None, contrast=None)
    return dataclasses.replace(config, elementwise=ElementwiseConfig())


def dfa_model2(action_space: ActionSpace) -> DfaVlaConfig:
    """MVSM; all tokens go through all blocks."""
    return dataclasses.replace(dfa_vla(action_space), dfaf=None)


def dfa_model3(action_space: ActionSpace) -> DfaVlaConfig:
    """Model 1's encoder and the full DFAF, without boxes."""
    return DfaVlaConfig(
        action_space=action_space,
        dinov2=None,
        imagenet_vit=dataclasses.replace(imagenet_vit.vit_b16_in21k(), pooled_width=None),
        boxes=None,
        contrast=ContrastConfig(positive="in_batch"),
    )


def dfa_model4(action_space: ActionSpace) -> DfaVlaConfig:
    """MVSM and DFAF without a gate: a plain average."""
    return dataclasses.replace(dfa_vla(action_space), dfaf=DfafConfig(gate=GateConfig(kind="constant", value=0.5)))


PRESETS = {
    "dfa_vla": dfa_vla,
    "dfa_model1": dfa_model1,
    "dfa_model2": dfa_model2,
    "dfa_model3": dfa_model3,
    "dfa_model4": dfa_model4,
}
MODELS = (dfa_model1, dfa_model2, dfa_model3, dfa_model4, dfa_vla)


def dfa_vla_scratch(
    action_space: ActionSpace,
    model: int = 5,
    *,
    image_size: int = 64,
    patch_size: int = 8,
    width: int = 64,
    num_layers: int = 4,
) -> DfaVlaConfig:
    """Any of Models 1 to 5 with parts that train from nothing, in minutes on a CPU. Not an experiment of the paper.

    Differs from it: one frame; a small ViT; a small Llama with the built-in tokenizer's words, of which two blocks come
    before the choice; squares of a grid for boxes; a quarter as many tokens chosen as there are patches, at least 8;
    proprio is read, for targets are relative to the gripper; relu in the ViT, which a CPU computes faster than gelu.
    """
    published = MODELS[model - 1](action_space)
    chosen = max(8, (image_size // patch_size) ** 2 // 4)
    vit = VitConfig(
        width=width,
        num_layers=2,
        num_heads=2,
        mlp_width=2 * width,
        patch_size=patch_size,
        image_size=image_size,
        activation="relu",
        remat="none",
    )
    return dataclasses.replace(
        published,
        dinov2=None,
        imagenet_vit=None,
        scratch_vision=vit,
        language=_small_llama(width, num_layers),
        resolution=image_size,
        grid_mode="native",
        num_frames=1,
        text_length=16,
        boxes=None if published.boxes is None else BoxRequirement(count=9, missing="grid"),
        mvsm=MvsmConfig(roi_size=2),
        dfaf=None if published.dfaf is None else dataclasses.replace(published.dfaf, num_selected=chosen),
        elementwise=None if published.elementwise is None else ElementwiseConfig(width=2 * width),
        contrast=None if published.contrast is None else ContrastConfig(positive="in_batch"),
        prefix_layers=2,
        proprio_token=True,
        head=TransformerRegressionConfig(width=2 * width, num_heads=4, mlp_width=4 * width),
    )


def _small_llama(width: int, num_layers: int) -> LlamaConfig:
    """Heads of 32 channels: of 16, most would turn with the position."""
    decoder = DecoderConfig(
        width=width,
        num_layers=num_layers,
        num_heads=width // 32,
        num_key_value_heads=width // 32,
        head_width=32,
        mlp_width=2 * width,
        vocab_size=512,
        max_length=256,
        norm=RmsNormConfig(epsilon=1e-5),
        remat="none",
    )
    return LlamaConfig(decoder=decoder)


def tiny(config: DfaVlaConfig) -> DfaVlaConfig:
    """The CPU twin of any of the above: the same wiring, small widths, a grid of 4 x 4 cells, 5 boxes."""
    language = dataclasses.replace(llama.tiny().decoder, num_layers=config.prefix_layers + 2, vocab_size=512)
    vit = vit_tiny(image_size=64)
    return dataclasses.replace(
        config,
        dinov2=config.dinov2 and dinov2.tiny(),
        imagenet_vit=config.imagenet_vit and dataclasses.replace(imagenet_vit.tiny(), patch_size=16, image_size=64),
        scratch_vision=config.scratch_vision and vit,
        language=LlamaConfig(decoder=language),
        resolution=64,
        text_length=16,
        boxes=config.boxes and dataclasses.replace(config.boxes, count=5, missing="grid"),
        mvsm=MvsmConfig(roi_size=2),
        dfaf=config.dfaf and dataclasses.replace(config.dfaf, num_selected=3),
        elementwise=config.elementwise and dataclasses.replace(config.elementwise, width=18),
        head=dataclasses.replace(config.head, width=28, num_heads=2, mlp_width=44),
    )
