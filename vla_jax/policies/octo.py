"""Octo: a transformer over the sentence and each step's pictures, in blocks of steps; read-outs; a diffusion head.

Axes: b batch, w window, y x pixels, t text tokens, n tokens of a picture, s tokens of the sequence, h horizon,
a action, d width.
Source: Octo (arXiv 2405.12213), section 3 and appendix, and published code (`octo_module.py`, `block_transformer.py`,
`scripts/configs/octo_pretrain_config.py`): 256- and 128-pixel pictures by a small convolutional stem, a window of two
steps, the sentence in front of the sequence and again in each step, learned positions for each group of tokens, one
read-out a step, chunks of four, the small and the base transformer of ViT's sizes. No proprio, as published.
Differs: the sentence is read by CLIP's text half, frozen (published: T5-base, 111 M, frozen); tasks told by a picture
of the goal are left out; padded words are masked; read-outs of padded steps are not seen.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from vla_jax.actions.diffusion import DiffusionConfig
from vla_jax.actions.residual_denoiser import ResidualDenoiserConfig
from vla_jax.encoders.clip import ClipConfig, clip_b32, clip_tiny
from vla_jax.encoders.small_stem import SmallStemConfig
from vla_jax.nn import dropout, masks
from vla_jax.nn.block import plain_block
from vla_jax.nn.linear import linear
from vla_jax.nn.norms import layer_norm
from vla_jax.nn.stack import StackConfig
from vla_jax.policies.base import Policy, PolicyConfig, PretrainedPart
from vla_jax.types import (
    ActionSpace,
    Batch,
    CameraRequirement,
    DataRequirements,
    InputError,
    Losses,
    Observation,
    PolicyContext,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """The defaults are ViT-S."""

    width: int = 384
    num_layers: int = 12
    num_heads: int = 6
    mlp_width: int = 1536
    dropout_rate: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class OctoConfig(PolicyConfig):
    clip: ClipConfig
    """Its text half; without a vision half."""
    clip_weights: str | None = None
    """A local Hugging Face folder of the CLIP model, or one that `python -m vla_jax import` made: its parameters."""
    train_clip: bool = False
    cameras: tuple[str, ...] = ("primary", "wrist")
    image_sizes: tuple[int, ...] = (256, 128)
    """In pixels, of each camera."""
    stem: SmallStemConfig = SmallStemConfig()
    """Of each camera, one of its own."""
    window: int = 2
    max_window: int = 10
    """Steps that there are positions for."""
    text_length: int = 16
    repeats_text: bool = True
    """True: the sentence's tokens stand in each step, too."""
    num_readouts: int = 1
    """A step; their mean is read."""
    trunk: TrunkConfig = TrunkConfig()
    head: DiffusionConfig = DiffusionConfig(denoiser=ResidualDenoiserConfig())

    def __post_init__(self):
        if self.clip.text is None or self.clip.vision is not None:
            raise InputError("policy.clip: the text half alone is expected (clip.vision null)")
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise InputError(f"policy.cameras={self.cameras}: one or more different camera slots expected")
        if len(self.image_sizes) != len(self.cameras):
            raise InputError(f"policy.image_sizes={self.image_sizes}: one for each of {self.cameras} expected")
        if wrong := [size for size in self.image_sizes if size % self.stem.stride]:
            raise InputError(f"policy.image_sizes: {wrong} are no multiples of the stem's {self.stem.stride} pixels")
        if not 1 <= self.window <= self.max_window:
            raise InputError(f"policy.window={self.window}: 1 to max_window={self.max_window} expected")

    def num_tokens(self, camera: int) -> int:
        return (self.image_sizes[camera] // self.stem.stride) ** 2

    def build(self, rngs: nnx.Rngs) -> "Octo":
        return Octo(self, rngs=rngs)

    def data_requirements(self) -> DataRequirements:
        assert self.clip.text is not None, "__post_init__ asks for it"
        sizes = zip(self.cameras, self.image_sizes, strict=True)
        return DataRequirements(
            action_space=self.action_space,
            cameras=tuple(CameraRequirement(slot=slot, height=size, width=size) for slot, size in sizes),
            window=self.window,
            window_anchor="last",
            text_length=self.text_length,
            vocab_size=self.clip.text.vocab_size,
        )

    def frozen_paths(self) -> tuple[str, ...]:
        return () if self.train_clip else ("clip/.*",)

    def pretrained_parts(self) -> tuple[PretrainedPart, ...]:
        part = PretrainedPart(
            prefix="clip",
            family="clip",
            path=self.clip_weights,
            frozen=not self.train_clip,
            settings=self.clip.settings(),
            reads_text=True,
        )
        return (part,)


class Octo(Policy):
    def __init__(self, config: OctoConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, steps = config.trunk.width, config.max_window
        self.clip = config.clip.build(rngs)
        self.stems = nnx.Dict({slot: config.stem.build(rngs) for slot in config.cameras})
        self.text_projection = linear(config.clip.projection_width, width, (None, "embed"), rngs=rngs)
        self.text_positions = _positions((config.text_length, width), rngs)
        out_width = config.stem.out_width
        self.projections = nnx.Dict(
            {slot: linear(out_width, width, (None, "embed"), rngs=rngs) for slot in config.cameras}
        )
        self.positions = nnx.Dict(
            {
                slot: _positions((steps, config.num_tokens(camera), width), rngs)
                for camera, slot in enumerate(config.cameras)
            }
        )
        self.readouts = _positions((steps, config.num_readouts, width), rngs)
        block = plain_block(
            width=width,
            num_heads=config.trunk.num_heads,
            mlp_width=config.trunk.mlp_width,
            activation="gelu_tanh",
            epsilon=1e-6,
            dropout_rate=config.trunk.dropout_rate,
        )
        self.trunk = StackConfig(block=block, num_layers=config.trunk.num_layers).build(rngs)
        self.trunk_norm = layer_norm(width, epsilon=1e-6, rngs=rngs)
        self.head = config.head.build(width, config.action_space, rngs)

    def loss(self, batch: Batch, *, key: Key[Array, ""] | None) -> Losses:
        context_key, head_key = dropout.split(key, 2)
        context = self.context(batch.observation, key=context_key)
        return self.head.loss(context, batch.action, batch.action_mask, key=head_key)

    def act(
        self,
        observation: Observation,
        *,
        key: Key[Array, ""] | None = None,
        text: Float[Array, "b t d"] | None = None,
    ) -> Float[Array, "b h a"]:
        """Without a key the chunk that begins at no noise at all. Args: text: as `read_instruction` gives it."""
        context = self.context(observation, key=None, text=text)
        assert context.queries is not None
        steps = jnp.arange(observation.timestep_mask.shape[1])
        last = jnp.where(observation.timestep_mask, steps, 0).max(axis=1)
        query = jnp.take_along_axis(context.queries, last[:, None, None], axis=1)
        return self.head.sample(PolicyContext(queries=query), key=key)[:, 0]

    def stages(self, observation: Observation) -> dict[str, Array]:
        stages = {"text_tokens": self.read_instruction(observation.instruction_tokens, observation.instruction_mask)}
        for slot in self.config.cameras:
            stages[f"picture_tokens/{slot}"] = self.picture_tokens(observation, slot)
        context = self.context(observation, key=None)
        assert context.queries is not None
        return stages | {"readouts": context.queries, "actions": self.head.sample(context, key=None)}

    def context(
        self, observation: Observation, *, key: Key[Array, ""] | None, text: Float[Array, "b t d"] | None = None
    ) -> PolicyContext:
        """One read-out a window step."""
        sequence, mask = self.sequence(observation, text), self.mask(observation)
        window, num_readouts = observation.timestep_mask.shape[1], self.config.num_readouts
        x = self.trunk_norm(self.trunk(sequence, mask=mask, key=key))
        steps = x[:, self.config.text_length :].reshape(len(x), window, -1, x.shape[-1])
        readouts = steps[:, :, -num_readouts:].mean(axis=2)
        return PolicyContext(queries=readouts, timestep_mask=observation.timestep_mask)

    def sequence(self, observation: Observation, text: Float[Array, "b t d"] | None = None) -> Float[Array, "b s d"]:
        """The sentence; then each step's pictures, the sentence again, read-outs."""
        window = observation.timestep_mask.shape[1]
        if text is None:
            text = self.read_instruction(observation.instruction_tokens, observation.instruction_mask)
        groups = [self.picture_tokens(observation, slot) for slot in self.config.cameras]
        if self.config.repeats_text:
            groups.append(jnp.repeat(text[:, None], window, axis=1))
        readouts = self.readouts[...][:window].astype(text.dtype)
        groups.append(jnp.broadcast_to(readouts, (len(text), *readouts.shape)))
        steps = jnp.concatenate(groups, axis=2)
        return jnp.concatenate([text, steps.reshape(len(text), -1, text.shape[-1])], axis=1)

    def mask(self, observation: Observation) -> Bool[Array, "b s s"]:
        """Blocks of steps over valid tokens."""
        config, steps = self.config, observation.timestep_mask
        words = observation.instruction_mask
        counts = [config.num_tokens(camera) for camera in range(len(config.cameras))]
        valid = [
            jnp.repeat((observation.image_masks[slot] & steps)[..., None], count, axis=2)
            for slot, count in zip(config.cameras, counts, strict=True)
        ]
        if config.repeats_text:
            valid.append(words[:, None] & steps[..., None])
        num_observation = sum(group.shape[2] for group in valid)
        valid.append(jnp.repeat(steps[..., None], config.num_readouts, axis=2))
        everything = jnp.concatenate([words, jnp.concatenate(valid, axis=2).reshape(len(words), -1)], axis=1)
        blocks = jnp.asarray(masks.step_blocks(words.shape[1], num_observation, config.num_readouts, steps.shape[1]))
        return (blocks & everything[:, None]) | jnp.eye(len(blocks), dtype=bool)

    def read_instruction(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b t d"]:
        text = self.clip.text_tokens(ids, mask)
        return self.text_projection(text) + self.text_positions[...].astype(text.dtype)

    def picture_tokens(self, observation: Observation, slot: str) -> Float[Array, "b w n d"]:
        images = observation.images[slot]
        tokens = self.projections[slot](self.stems[slot](images.reshape(-1, *images.shape[2:])))
        tokens = tokens.reshape(*images.shape[:2], *tokens.shape[1:])
        return tokens + self.positions[slot][...][: images.shape[1]].astype(tokens.dtype)


def _positions(shape: tuple[int, ...], rngs: nnx.Rngs) -> nnx.Param:
    axes = ("position",) * (len(shape) - 1) + ("embed",)
    return nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), shape), logical_axes=axes)


def octo_small(action_space: ActionSpace) -> OctoConfig:
    text = dataclasses.replace(clip_b32(), vision=None)
    return OctoConfig(action_space=action_space, clip=text)


def octo_base(action_space: ActionSpace) -> OctoConfig:
    trunk = TrunkConfig(width=768, num_heads=12, mlp_width=3072)
    return dataclasses.replace(octo_small(action_space), trunk=trunk)


PRESETS = {"octo_small": octo_small, "octo_base": octo_base}


def tiny(config: OctoConfig) -> OctoConfig:
    """The CPU twin of any of the above: the same wiring, small widths, 32- and 24-pixel pictures, three steps of DDIM.

    DDPM's first step multiplies what the denoiser says by 32: of random weights, how numbers were rounded would show.
    """
    denoiser = ResidualDenoiserConfig(time_width=6, hidden_width=24, num_blocks=2)
    return dataclasses.replace(
        config,
        clip=dataclasses.replace(clip_tiny(), vision=None),
        image_sizes=(32, 24)[: len(config.cameras)],
        stem=SmallStemConfig(widths=(8, 12, 20), out_width=18, num_groups=4),
        max_window=4,
        trunk=dataclasses.replace(config.trunk, width=28, num_layers=2, num_heads=2, mlp_width=40),
        head=dataclasses.replace(config.head, denoiser=denoiser, num_steps=10, sampler="ddim", num_sampling_steps=3),
    )
