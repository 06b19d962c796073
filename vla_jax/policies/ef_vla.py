"""EF-VLA: frozen CLIP, text-aware visual features (Eq. 4), pooled to one token a step, a causal transformer.

Axes: b batch, w window, y x pixels, c cameras, t text tokens, n patches, d shared text-image width of CLIP,
h horizon, a action, p proprio, e width of the step token.
Source: EF-VLA section 3 and Tables 6-7 (published as OTTER, arXiv 2503.03734). Where the paper is silent we
follow its published JAX code: no projection in front of the trunk, whose width is therefore the step token's
(704 with two cameras) and whose "latent dimension" is the MLP's; sinusoidal positions; dropout 0.1; L1.
Differs: the temperature trains (see `fusion/early_fusion.py`); padded targets and missing cameras are masked.
"""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from vla_jax.actions.regression import RegressionConfig
from vla_jax.encoders.clip import ClipConfig, ClipTextConfig, clip_b16, clip_b32, clip_l14, clip_tiny
from vla_jax.encoders.projected_vit import ProjectedVitConfig
from vla_jax.encoders.vit import LastAttention, VitConfig, vit_ti_half, vit_tiny
from vla_jax.fusion.early_fusion import EarlyFusionConfig
from vla_jax.fusion.pooling import AttentionPoolingConfig
from vla_jax.nn import dropout, masks
from vla_jax.nn.block import plain_block
from vla_jax.nn.linear import linear
from vla_jax.nn.norms import layer_norm
from vla_jax.nn.positions import sinusoidal
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
    """The causal transformer over step tokens."""

    num_layers: int = 4
    num_heads: int = 8
    mlp_width: int = 512
    dropout_rate: float = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfVlaConfig(PolicyConfig):
    clip: ClipConfig
    """Without a vision half, `scratch_vision` takes its place."""
    train_clip: bool = False
    """False: CLIP is frozen, as in the paper."""
    scratch_vision: ProjectedVitConfig | None = None
    """A vision encoder trained from scratch, in place of CLIP's."""
    last_attention: LastAttention = "qk"
    """How CLIP's last block attends for X_attn; `qq` is the original ClearCLIP's."""
    clip_weights: str | None = None
    """A local Hugging Face folder of the CLIP model, or one that `python -m vla_jax import` made: its parameters."""
    cameras: tuple[str, ...] = ("primary", "wrist")
    window: int = 12
    text_length: int = 16
    mask_text_padding: bool = False
    """False: text pooling reads all `text_length` tokens, padding included, as the published code does."""
    fusion: EarlyFusionConfig = EarlyFusionConfig()
    image_pooling: AttentionPoolingConfig = AttentionPoolingConfig(out_width=256)
    text_pooling: AttentionPoolingConfig = AttentionPoolingConfig(out_width=128)
    proprio_width: int = 64
    proprio_hidden_widths: tuple[int, ...] = ()
    proprio_noise: float = 0.01
    """Standard deviation of the Gaussian noise on (normalised) proprio in training."""
    trunk: TrunkConfig = TrunkConfig()
    head: RegressionConfig = RegressionConfig()

    def __post_init__(self):
        if self.clip.text is None:
            raise InputError("policy.clip.text is None: Eq. 4 compares patches with CLIP's text tokens")
        if (self.clip.vision is None) is (self.scratch_vision is None):
            raise InputError("policy: exactly one of clip.vision and scratch_vision is expected")
        if self.scratch_vision is not None and self.scratch_vision.out_width != self.clip.projection_width:
            raise InputError(
                f"policy: scratch_vision.out_width={self.scratch_vision.out_width} and clip.projection_width="
                f"{self.clip.projection_width} must be equal, for Eq. 4 compares them"
            )
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise InputError(f"policy.cameras={self.cameras}: one or more different camera slots expected")
        if self.window < 1 or self.text_length < 1:
            raise InputError(f"policy: window={self.window}, text_length={self.text_length}: 1 or more each expected")

    @property
    def step_width(self) -> int:
        """Of the one token a step: proprio, each camera, text."""
        return self.proprio_width + len(self.cameras) * self.image_pooling.out_width + self.text_pooling.out_width

    def build(self, rngs: nnx.Rngs) -> "EfVla":
        return EfVla(self, rngs=rngs)

    def data_requirements(self) -> DataRequirements:
        vision = self.scratch_vision.vit if self.scratch_vision else self.clip.vision
        assert vision is not None, "__post_init__ asks for one"
        assert self.clip.text is not None, "__post_init__ asks for it"
        size = vision.image_size
        return DataRequirements(
            action_space=self.action_space,
            cameras=tuple(CameraRequirement(slot=slot, height=size, width=size) for slot in self.cameras),
            window=self.window,
            window_anchor="first",
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
            normalization=() if self.clip.vision is None else (self.clip.vision.normalization,),
            reads_text=True,
        )
        return (part,)


class ProprioEncoder(nnx.Module):
    """f_e: the embodiment feature."""

    def __init__(self, in_width: int, config: EfVlaConfig, *, rngs: nnx.Rngs):
        widths = (in_width, *config.proprio_hidden_widths, config.proprio_width)
        axes = (None, "feature")
        self.layers = nnx.List([linear(i, o, axes, rngs=rngs) for i, o in itertools.pairwise(widths)])

    def __call__(self, proprio: Float[Array, "b w p"]) -> Float[Array, "b w d"]:
        for layer in self.layers[:-1]:
            proprio = jax.nn.relu(layer(proprio))
        return self.layers[-1](proprio)


class EfVla(Policy):
    def __init__(self, config: EfVlaConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.clip = config.clip.build(rngs)
        self.scratch_vision = None if config.scratch_vision is None else config.scratch_vision.build(rngs)
        width = config.clip.projection_width
        self.fusion = nnx.Dict({slot: config.fusion.build(rngs) for slot in config.cameras})
        self.image_pooling = nnx.Dict({slot: config.image_pooling.build(width, rngs) for slot in config.cameras})
        self.text_pooling = config.text_pooling.build(width, rngs)
        self.proprio = ProprioEncoder(config.action_space.proprio_width, config, rngs=rngs)
        block = plain_block(
            width=config.step_width,
            num_heads=config.trunk.num_heads,
            mlp_width=config.trunk.mlp_width,
            dropout_rate=config.trunk.dropout_rate,
        )
        self.trunk = StackConfig(block=block, num_layers=config.trunk.num_layers).build(rngs)
        self.trunk_norm = layer_norm(config.step_width, epsilon=1e-5, rngs=rngs)
        self.head = config.head.build(config.step_width, config.action_space, rngs)

    def loss(self, batch: Batch, *, key: Key[Array, ""] | None) -> Losses:
        noise_key, context_key, head_key = dropout.split(key, 3)
        observation = batch.observation
        if noise_key is not None:
            noise = self.config.proprio_noise * jax.random.normal(noise_key, observation.proprio.shape)
            observation = dataclasses.replace(observation, proprio=observation.proprio + noise)
        context = self.context(observation, key=context_key)
        return self.head.loss(context, batch.action, batch.action_mask, key=head_key)

    def act(self, observation: Observation, *, key: Key[Array, ""] | None = None) -> Float[Array, "b h a"]:
        chunks = self.head.sample(self.context(observation, key=None), key=key)
        steps = jnp.arange(observation.timestep_mask.shape[1])
        last = jnp.where(observation.timestep_mask, steps, 0).max(axis=1)
        return jnp.take_along_axis(chunks, last[:, None, None, None], axis=1)[:, 0]

    def stages(self, observation: Observation) -> dict[str, Array]:
        window = observation.timestep_mask.shape[1]
        text = self.clip.text_tokens(observation.instruction_tokens, observation.instruction_mask)
        stages = {"text_features": text}
        for slot in self.config.cameras:
            images = observation.images[slot]
            patches = self.patch_features(images.reshape(-1, *images.shape[2:]))
            stages[f"patch_features/{slot}"] = patches
            stages[f"fused_features/{slot}"] = self.fusion[slot](jnp.repeat(text, window, axis=0), patches)
        context = self.context(observation, key=None)
        assert context.queries is not None
        stages["step_tokens"] = self.step_tokens(observation)
        stages["trunk_output"] = context.queries
        stages["actions"] = self.head.sample(context, key=None)
        return stages

    def attention_maps(self, observation: Observation) -> dict[str, Float[Array, "b w t r c"]]:
        """Eq. 4's weights by camera slot: where in the grid [r, c] of patches each text token looks."""
        batch, window = observation.timestep_mask.shape
        text = self.clip.text_tokens(observation.instruction_tokens, observation.instruction_mask)
        maps = {}
        for slot in self.config.cameras:
            images = observation.images[slot]
            patches = self.patch_features(images.reshape(-1, *images.shape[2:]))
            weights = self.fusion[slot].attention(jnp.repeat(text, window, axis=0), patches)
            side = math.isqrt(weights.shape[-1])
            maps[slot] = weights.reshape(batch, window, -1, side, side)
        return maps

    def context(self, observation: Observation, *, key: Key[Array, ""] | None) -> PolicyContext:
        """One read-out token a window step."""
        tokens = self.step_tokens(observation)
        positions = sinusoidal(tokens.shape[1], tokens.shape[2]).astype(tokens.dtype)
        embed_key, trunk_key = dropout.split(key, 2)
        x = dropout.dropout(tokens + positions, self.config.trunk.dropout_rate, embed_key)
        x = self.trunk(x, mask=masks.causal_over_valid(observation.timestep_mask), key=trunk_key)
        return PolicyContext(queries=self.trunk_norm(x), timestep_mask=observation.timestep_mask)

    def step_tokens(self, observation: Observation) -> Float[Array, "b w e"]:
        """f_t = [f_e ; f'_vl of each camera ; f'_l], side by side in one token a step."""
        batch, window = observation.timestep_mask.shape
        text = self.clip.text_tokens(observation.instruction_tokens, observation.instruction_mask)
        text_mask = observation.instruction_mask if self.config.mask_text_padding else None
        pooled_text = self.text_pooling(text, text_mask)
        dtype = text.dtype
        parts = [self.proprio(observation.proprio.astype(dtype))]
        for slot in self.config.cameras:
            pooled = self.camera_feature(slot, observation.images[slot], text).reshape(batch, window, -1)
            parts.append(pooled * observation.image_masks[slot][..., None].astype(dtype))
        parts.append(jnp.broadcast_to(pooled_text[:, None], (batch, window, pooled_text.shape[-1])))
        return jnp.concatenate(parts, axis=-1)

    def camera_feature(
        self, slot: str, images: UInt8[Array, "b w y x 3"], text: Float[Array, "b t d"]
    ) -> Float[Array, "bw e"]:
        """f'_vl of one camera for every window step."""
        patches = self.patch_features(images.reshape(-1, *images.shape[2:]))
        text = jnp.repeat(text, images.shape[1], axis=0)
        return self.image_pooling[slot](self.fusion[slot](text, patches))

    def patch_features(self, images: UInt8[Array, "bw y x 3"]) -> Float[Array, "bw n d"]:
        """f_v: unit-length features of every patch, in CLIP's shared space."""
        if self.scratch_vision is not None:
            return self.scratch_vision(images)
        return self.clip.vision_attention(images, self.config.last_attention)


CLIP_SIZES = {"b32": clip_b32, "b16": clip_b16, "l14": clip_l14}


def ef_vla(action_space: ActionSpace, clip: str = "l14") -> EfVlaConfig:
    """Tables 6 and 7. `clip`: b32, b16 or l14, the sizes of Figure 5 (its "ViT-L/16" does not exist)."""
    return EfVlaConfig(action_space=action_space, clip=CLIP_SIZES[clip]())


def ef_vla_l(action_space: ActionSpace, clip: str = "l14") -> EfVlaConfig:
    """The larger model for Open X-Embodiment: 8 layers, MLP 768."""
    return dataclasses.replace(ef_vla(action_space, clip), trunk=TrunkConfig(num_layers=8, mlp_width=768))


def ef_wo_clip_vision(action_space: ActionSpace, clip: str = "l14") -> EfVlaConfig:
    """The ablation of Table 1: a small ViT from scratch in place of CLIP's vision, CLIP's text kept."""
    full = CLIP_SIZES[clip]()
    scratch = ProjectedVitConfig(vit=vit_ti_half(), out_width=full.projection_width)
    text_only = dataclasses.replace(full, vision=None)
    return EfVlaConfig(action_space=action_space, clip=text_only, scratch_vision=scratch)


def ef_vla_scratch(
    action_space: ActionSpace, *, image_size: int = 64, patch_size: int = 8, width: int = 64, num_layers: int = 1
) -> EfVlaConfig:
    """EF-VLA's wiring with vision and text that train from nothing, in minutes on a CPU. Not an ablation of the paper.

    Differs from it: one picture at a time; positions join Eq. 4's values, without which features from scratch do not
    say where they are; relu, which a CPU computes faster than gelu.
    """
    heads, mlp_width = max(2, width // 64), 2 * width
    text = ClipTextConfig(
        width=width, num_layers=num_layers, num_heads=2 * heads, mlp_width=mlp_width, vocab_size=512, remat="none"
    )
    vit = VitConfig(
        width=width,
        num_layers=num_layers,
        num_heads=heads,
        mlp_width=mlp_width,
        patch_size=patch_size,
        image_size=image_size,
        activation="relu",
        remat="none",
    )
    pooling = AttentionPoolingConfig(out_width=2 * width, num_heads=4, num_blocks=1, mlp_width=mlp_width)
    return EfVlaConfig(
        action_space=action_space,
        clip=ClipConfig(vision=None, text=text, projection_width=width),
        train_clip=True,
        scratch_vision=ProjectedVitConfig(vit=vit, out_width=width),
        window=1,
        fusion=EarlyFusionConfig(value_positions=True),
        image_pooling=pooling,
        text_pooling=dataclasses.replace(pooling, out_width=width),
        trunk=TrunkConfig(num_layers=num_layers, mlp_width=8 * width, dropout_rate=0.0),
    )


def tiny(config: EfVlaConfig) -> EfVlaConfig:
    """The CPU twin of any of the above: the same wiring, small widths, 32-pixel pictures, a window of 4."""
    clip, scratch = clip_tiny(), None
    if config.scratch_vision is not None:
        clip = dataclasses.replace(clip, vision=None)
        scratch = ProjectedVitConfig(vit=vit_tiny(), out_width=clip.projection_width)
    return dataclasses.replace(
        config,
        clip=clip,
        scratch_vision=scratch,
        window=4,
        image_pooling=AttentionPoolingConfig(out_width=32, num_queries=2, num_heads=2, mlp_width=24),
        text_pooling=AttentionPoolingConfig(out_width=16, num_queries=2, num_heads=2, mlp_width=24),
        proprio_width=8,
        trunk=dataclasses.replace(config.trunk, num_layers=config.trunk.num_layers // 2, num_heads=2, mlp_width=48),
    )
