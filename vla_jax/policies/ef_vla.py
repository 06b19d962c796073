"""EF-VLA: frozen CLIP, text-aware visual features (Eq. 4), pooled to one token a step, a causal transformer.

Axes: b batch, w window, y x pixels, c cameras, t text tokens, n patches, k fused tokens, d shared text-image width of
CLIP, h horizon, a action, p proprio, e width of the step token, f width of the trunk.
Source: EF-VLA section 3 and Tables 6-7 (published as OTTER, arXiv 2503.03734). Where the paper is silent we
follow its published JAX code: no projection in front of the trunk, whose width is therefore the step token's
(704 with two cameras) and whose "latent dimension" is the MLP's; sinusoidal positions; dropout 0.1; L1.
Differs: the temperature trains (see `fusion/early_fusion.py`); padded targets and missing cameras are masked.

Every ablation and both published codes are presets: they put other parts in the place of `clip_features`, `fusion`,
`image_pooling`, `text_pooling`, `proprio` and `trunk`. Of the codes `otter_jax` and `otter_torch` repeat the forward
pass; not their dropout inside the perceptron (JAX), nor that a text is cut without its end token (PyTorch).
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from vla_jax.actions.regression import RegressionConfig
from vla_jax.encoders.clip import ClipConfig, ClipTextConfig, clip_b16, clip_b32, clip_l14, clip_tiny
from vla_jax.encoders.clip_features import ClipEmbeddings, ClipFeatures, ClipTokens
from vla_jax.encoders.projected_vit import ProjectedVitConfig
from vla_jax.encoders.proprio import ProprioEncoderConfig
from vla_jax.encoders.vit import LastAttention, VitConfig, vit_ti_half, vit_tiny
from vla_jax.fusion.cross_fusion import CrossFusionConfig
from vla_jax.fusion.early_fusion import EarlyFusionConfig
from vla_jax.fusion.late_fusion import LateFusionConfig
from vla_jax.fusion.pooling import AttentionPoolingConfig, LinearPoolingConfig, PoolingConfig
from vla_jax.fusion.text_fusion import TextFusionConfig
from vla_jax.nn import dropout, masks
from vla_jax.nn.block import plain_block
from vla_jax.nn.linear import linear
from vla_jax.nn.mlp import Activation
from vla_jax.nn.norms import layer_norm
from vla_jax.nn.positions import Layout, sinusoidal
from vla_jax.nn.rotary import Rotation, text_rotation
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

ROTARY_THETA = 10_000.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """The causal transformer over step tokens."""

    width: int | None = None
    """None: the step token's. Otherwise a linear layer stands in front."""
    num_layers: int = 4
    num_heads: int = 8
    mlp_width: int = 512
    dropout_rate: float = 0.1
    positions: Literal["sinusoidal", "rotary", "rotary_backwards"] = "sinusoidal"
    """`rotary_backwards`: of the published PyTorch code, which takes sines for cosines."""
    position_layout: Layout = "interleaved"
    """Of the sinusoid; the published JAX code has `halves`."""
    final_norm: bool = True
    activation: Activation = "gelu"
    epsilon: float = 1e-5
    """Of every layer norm."""

    def rotation(self, length: int, width: int) -> Rotation | None:
        if self.positions == "sinusoidal":
            return None
        steps = jnp.arange(length)[None]
        turned = steps if self.positions == "rotary" else -steps
        return text_rotation(turned, width // self.num_heads, ROTARY_THETA)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfVlaConfig(PolicyConfig):
    clip: ClipConfig
    """Without a vision half, `scratch_vision` takes its place."""
    train_clip: bool = False
    """False: CLIP is frozen, as in the paper."""
    scratch_vision: ProjectedVitConfig | None = None
    """A vision encoder trained from scratch, in place of CLIP's."""
    clip_features: ClipFeatures = ClipTokens()
    """What is read of CLIP's text, and of its vision where it has one."""
    clip_weights: str | None = None
    """A local Hugging Face folder of the CLIP model, or one that `python -m vla_jax import` made: its parameters."""
    cameras: tuple[str, ...] = ("primary", "wrist")
    window: int = 12
    text_length: int = 16
    text_mask: Literal["all", "valid", "words"] = "all"
    """Which text tokens are pooled: all `text_length`, as the published JAX code does; without padding; or without
    padding, start and end."""
    fusion: TextFusionConfig = EarlyFusionConfig()
    image_pooling: PoolingConfig = AttentionPoolingConfig(out_width=256)
    text_pooling: PoolingConfig | None = AttentionPoolingConfig(out_width=128)
    """None: the step token has no f'_l (ablation)."""
    proprio: ProprioEncoderConfig | None = ProprioEncoderConfig()
    """None: the step token has no f_e (ablation)."""
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
        if isinstance(self.fusion, CrossFusionConfig) and self.fusion.width != self.clip.projection_width:
            raise InputError(
                f"policy.fusion.width={self.fusion.width}: clip.projection_width={self.clip.projection_width} expected"
            )
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise InputError(f"policy.cameras={self.cameras}: one or more different camera slots expected")
        if self.window < 1 or self.text_length < 1:
            raise InputError(f"policy: window={self.window}, text_length={self.text_length}: 1 or more each expected")

    @property
    def step_width(self) -> int:
        """Of the one token a step: proprio, each camera, text."""
        parts = [self.proprio, *[self.image_pooling] * len(self.cameras), self.text_pooling]
        return sum(part.out_width for part in parts if part is not None)

    @property
    def trunk_width(self) -> int:
        return self.trunk.width or self.step_width

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


class EfVla(Policy):
    def __init__(self, config: EfVlaConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.clip = config.clip.build(rngs)
        self.scratch_vision = None if config.scratch_vision is None else config.scratch_vision.build(rngs)
        shared, trunk, width = config.clip.projection_width, config.trunk, config.trunk_width
        self.fusion = nnx.Dict({slot: config.fusion.build(rngs) for slot in config.cameras})
        self.image_pooling = nnx.Dict({slot: config.image_pooling.build(shared, rngs) for slot in config.cameras})
        self.text_pooling = None if config.text_pooling is None else config.text_pooling.build(shared, rngs)
        proprio_width = config.action_space.proprio_width
        self.proprio = None if config.proprio is None else config.proprio.build(proprio_width, rngs)
        projected = trunk.width is not None
        self.trunk_projection = linear(config.step_width, width, ("feature", "embed"), rngs=rngs) if projected else None
        block = plain_block(
            width=width,
            num_heads=trunk.num_heads,
            mlp_width=trunk.mlp_width,
            activation=trunk.activation,
            epsilon=trunk.epsilon,
            dropout_rate=trunk.dropout_rate,
        )
        self.trunk = StackConfig(block=block, num_layers=trunk.num_layers).build(rngs)
        self.trunk_norm = layer_norm(width, epsilon=trunk.epsilon, rngs=rngs) if trunk.final_norm else None
        self.head = config.head.build(width, config.action_space, rngs)

    def loss(self, batch: Batch, *, key: Key[Array, ""] | None) -> Losses:
        noise_key, context_key, head_key = dropout.split(key, 3)
        observation = batch.observation
        if noise_key is not None:
            noise = self.config.proprio_noise * jax.random.normal(noise_key, observation.proprio.shape)
            observation = dataclasses.replace(observation, proprio=observation.proprio + noise)
        context = self.context(observation, key=context_key)
        return self.head.loss(context, batch.action, batch.action_mask, key=head_key)

    def act(self, observation: Observation, *, key: Key[Array, ""] | None = None) -> Float[Array, "b h a"]:
        return self.act_on(self.step_tokens(observation), observation.timestep_mask)

    def stages(self, observation: Observation) -> dict[str, Array]:
        text = self.read_instruction(observation.instruction_tokens, observation.instruction_mask)
        stages = {"text_features": text}
        for slot in self.config.cameras:
            patches, fused = self.fused_features(slot, observation.images[slot], text)
            stages |= {f"patch_features/{slot}": patches, f"fused_features/{slot}": fused}
        context = self.context(observation, key=None)
        assert context.queries is not None
        stages["step_tokens"] = self.step_tokens(observation)
        stages["trunk_output"] = context.queries
        stages["actions"] = self.head.sample(context, key=None)
        return stages

    def attention_maps(
        self, observation: Observation, features: ClipFeatures | None = None
    ) -> dict[str, Float[Array, "b w t r c"]]:
        """Eq. 4's weights by camera slot: where in the grid [r, c] of patches each text token looks.

        Args: features: of CLIP, in the place of the policy's own (the paper compares X_out with X_attn).
        """
        batch, window = observation.timestep_mask.shape
        features = features or self.config.clip_features
        text = features.text(self.clip, observation.instruction_tokens, observation.instruction_mask)
        maps = {}
        for slot in self.config.cameras:
            images = observation.images[slot]
            patches = self.patch_features(images.reshape(-1, *images.shape[2:]), features)
            weights = self.fusion[slot].attention(jnp.repeat(text, window, axis=0), patches)
            side = math.isqrt(weights.shape[-1])
            maps[slot] = weights.reshape(batch, window, -1, side, side)
        return maps

    def attention_views(self, observation: Observation) -> dict[str, dict[str, Float[Array, "b w t r c"]]]:
        """`attention_maps` of X_attn and X_out, as the paper's Figure 6 compares them; of what there is elsewhere."""
        if self.scratch_vision is not None or not isinstance(self.config.clip_features, ClipTokens):
            return {"attention": self.attention_maps(observation)}
        own = self.config.clip_features
        sources: dict[str, LastAttention | None] = {"X_attn": own.last_attention or "qk", "X_out": None}
        return {
            name: self.attention_maps(observation, dataclasses.replace(own, last_attention=source))
            for name, source in sources.items()
        }

    # ---- a step at a time: what inference keeps, so that each picture and instruction is read once

    def read_instruction(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b _ d"]:
        return self.config.clip_features.text(self.clip, ids, mask)

    def step_tokens(self, observation: Observation, text: Float[Array, "b _ d"] | None = None) -> Float[Array, "b w e"]:
        """f_t = [f_e ; f'_vl of each camera ; f'_l], side by side in one token a step, each without the others.

        Args: text: as `read_instruction` gives it for the observation's; None: it is read.
        """
        batch, window = observation.timestep_mask.shape
        if text is None:
            text = self.read_instruction(observation.instruction_tokens, observation.instruction_mask)
        text_mask, dtype = self.text_mask(observation.instruction_mask), text.dtype
        parts = [] if self.proprio is None else [self.proprio(observation.proprio.astype(dtype))]
        for slot in self.config.cameras:
            _, fused = self.fused_features(slot, observation.images[slot], text)
            mask = text_mask if self.fusion[slot].gives_text else None
            mask = None if mask is None else jnp.repeat(mask, window, axis=0)
            pooled = self.image_pooling[slot](fused, mask).reshape(batch, window, -1)
            parts.append(pooled * observation.image_masks[slot][..., None].astype(dtype))
        if self.text_pooling is not None:
            pooled_text = self.text_pooling(text, text_mask)
            parts.append(jnp.broadcast_to(pooled_text[:, None], (batch, window, pooled_text.shape[-1])))
        return jnp.concatenate(parts, axis=-1)

    def act_on(self, tokens: Float[Array, "b w e"], timestep_mask: Bool[Array, "b w"]) -> Float[Array, "b h a"]:
        """The chunk of the last valid step, of step tokens."""
        chunks = self.head.sample(self.run_trunk(tokens, timestep_mask, key=None), key=None)
        last = jnp.where(timestep_mask, jnp.arange(tokens.shape[1]), 0).max(axis=1)
        return jnp.take_along_axis(chunks, last[:, None, None, None], axis=1)[:, 0]

    # ---- parts

    def context(self, observation: Observation, *, key: Key[Array, ""] | None) -> PolicyContext:
        return self.run_trunk(self.step_tokens(observation), observation.timestep_mask, key=key)

    def run_trunk(
        self, tokens: Float[Array, "b w e"], timestep_mask: Bool[Array, "b w"], *, key: Key[Array, ""] | None
    ) -> PolicyContext:
        """One read-out token a window step."""
        trunk = self.config.trunk
        x = tokens if self.trunk_projection is None else self.trunk_projection(tokens)
        length, width = x.shape[1:]
        rotation = trunk.rotation(length, width)
        if rotation is None:
            x = x + sinusoidal(length, width, trunk.position_layout).astype(x.dtype)
        embed_key, trunk_key = dropout.split(key, 2)
        x = dropout.dropout(x, trunk.dropout_rate, embed_key)
        x = self.trunk(x, mask=masks.causal_over_valid(timestep_mask), rotation=rotation, key=trunk_key)
        x = x if self.trunk_norm is None else self.trunk_norm(x)
        return PolicyContext(queries=x, timestep_mask=timestep_mask)

    def fused_features(
        self, slot: str, images: UInt8[Array, "b w y x 3"], text: Float[Array, "b t d"]
    ) -> tuple[Float[Array, "bw n d"], Float[Array, "bw k d"]]:
        """f_v and f_vl of one camera for every window step."""
        patches = self.patch_features(images.reshape(-1, *images.shape[2:]))
        return patches, self.fusion[slot](jnp.repeat(text, images.shape[1], axis=0), patches)

    def patch_features(
        self, images: UInt8[Array, "bw y x 3"], features: ClipFeatures | None = None
    ) -> Float[Array, "bw _ d"]:
        """f_v: unit-length features of every patch, in CLIP's shared space."""
        if self.scratch_vision is not None:
            return self.scratch_vision(images)
        return (features or self.config.clip_features).pictures(self.clip, images)

    def text_mask(self, mask: Bool[Array, "b t"]) -> Bool[Array, "b t"] | None:
        """The text tokens that are pooled; None: all that there are."""
        if self.config.text_mask == "all" or isinstance(self.config.clip_features, ClipEmbeddings):
            return None
        if self.config.text_mask == "valid":
            return mask
        place = jnp.arange(mask.shape[1])
        words = mask & (place > 0) & (place < mask.sum(axis=1, keepdims=True) - 1)
        return jnp.where(words.any(axis=1, keepdims=True), words, mask)


CLIP_SIZES = {"b32": clip_b32, "b16": clip_b16, "l14": clip_l14}


def ef_vla(action_space: ActionSpace, clip: str = "l14") -> EfVlaConfig:
    """Tables 6 and 7. `clip`: b32, b16 or l14, the sizes of Figure 5 (its "ViT-L/16" does not exist)."""
    return EfVlaConfig(action_space=action_space, clip=CLIP_SIZES[clip]())


def ef_vla_l(action_space: ActionSpace, clip: str = "l14") -> EfVlaConfig:
    """The larger model for Open X-Embodiment: 8 layers, MLP 768."""
    return dataclasses.replace(ef_vla(action_space, clip), trunk=TrunkConfig(num_layers=8, mlp_width=768))


def otter_jax(action_space: ActionSpace, clip: str = "l14") -> EfVlaConfig:
    """The published JAX code, as its configuration stands: the larger trunk, a temperature that never moves."""
    pooling = AttentionPoolingConfig(out_width=256, final_norm=True, activation="gelu_tanh", epsilon=1e-6)
    return dataclasses.replace(
        ef_vla(action_space, clip),
        clip_features=ClipTokens(double_text_norm=True),
        fusion=EarlyFusionConfig(
            initial_temperature=0.005, learn_temperature=False, value_positions=True, position_layout="halves"
        ),
        image_pooling=pooling,
        text_pooling=dataclasses.replace(pooling, out_width=128),
        trunk=TrunkConfig(num_layers=8, mlp_width=768, position_layout="halves", activation="gelu_tanh", epsilon=1e-6),
    )


def otter_torch(action_space: ActionSpace, clip: str = "l14") -> EfVlaConfig:
    """The published PyTorch code; `export --to otter` writes it under that code's names."""
    pooling = AttentionPoolingConfig(out_width=256, mlp_width=256, residual="normed", final_norm=True)
    return dataclasses.replace(
        ef_vla(action_space, clip),
        clip_features=ClipTokens(padding="zero"),
        text_length=15,
        fusion=EarlyFusionConfig(temperature="plain", value_positions=True, position_layout="halves"),
        image_pooling=pooling,
        text_pooling=dataclasses.replace(pooling, out_width=128, mlp_width=128),
        proprio=ProprioEncoderConfig(hidden_widths=(256, 256)),
        trunk=TrunkConfig(
            width=768, num_layers=8, mlp_width=768, dropout_rate=0.0, positions="rotary_backwards", final_norm=False
        ),
        head=RegressionConfig(hidden_widths=(768,), activation="relu"),
    )


def lf_vla(action_space: ActionSpace, clip: str = "l14") -> EfVlaConfig:
    """Late fusion: text and patches are pooled apart. The same X_attn patches, for a clean comparison."""
    return dataclasses.replace(ef_vla(action_space, clip), fusion=LateFusionConfig())


def lf_vla_cls(action_space: ActionSpace, clip: str = "l14") -> EfVlaConfig:
    """Late fusion of CLIP's embeddings of picture and text, each through one linear layer."""
    return dataclasses.replace(
        lf_vla(action_space, clip),
        clip_features=ClipEmbeddings(),
        image_pooling=LinearPoolingConfig(out_width=256),
        text_pooling=LinearPoolingConfig(out_width=128),
    )


def ef_xattn(action_space: ActionSpace, clip: str = "l14") -> EfVlaConfig:
    """Eq. 4 replaced by a learned cross-attention."""
    full = ef_vla(action_space, clip)
    return dataclasses.replace(full, fusion=CrossFusionConfig(width=full.clip.projection_width))


def ef_wo_clip_vision(action_space: ActionSpace, clip: str = "l14") -> EfVlaConfig:
    """The ablation of Table 1: a small ViT from scratch in place of CLIP's vision, CLIP's text kept."""
    full = CLIP_SIZES[clip]()
    scratch = ProjectedVitConfig(vit=vit_ti_half(), out_width=full.projection_width)
    text_only = dataclasses.replace(full, vision=None)
    return EfVlaConfig(action_space=action_space, clip=text_only, scratch_vision=scratch)


def ef_wo_fe(action_space: ActionSpace, clip: str = "l14") -> EfVlaConfig:
    """Without the embodiment feature. The published code feeds ones in its place; here it is left out."""
    return dataclasses.replace(ef_vla(action_space, clip), proprio=None)


def ef_wo_fl(action_space: ActionSpace, clip: str = "l14") -> EfVlaConfig:
    """Without the pooled text: words reach the trunk through Eq. 4 alone."""
    return dataclasses.replace(ef_vla(action_space, clip), text_pooling=None)


def ef_ft_clip(action_space: ActionSpace, clip: str = "l14") -> EfVlaConfig:
    """CLIP is trained end to end."""
    return dataclasses.replace(ef_vla(action_space, clip), train_clip=True)


PRESETS = {
    preset.__name__: preset
    for preset in (
        *(ef_vla, ef_vla_l, otter_jax, otter_torch, lf_vla, lf_vla_cls),
        *(ef_xattn, ef_wo_clip_vision, ef_wo_fe, ef_wo_fl, ef_ft_clip),
    )
}


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


def lf_vla_scratch(
    action_space: ActionSpace, *, image_size: int = 64, patch_size: int = 8, width: int = 64, num_layers: int = 1
) -> EfVlaConfig:
    """`ef_vla_scratch` without Eq. 4: its vision says nothing of the words, and the trunk has to join them."""
    early = ef_vla_scratch(
        action_space, image_size=image_size, patch_size=patch_size, width=width, num_layers=num_layers
    )
    return dataclasses.replace(early, fusion=LateFusionConfig())


def tiny(config: EfVlaConfig) -> EfVlaConfig:
    """The CPU twin of any of the above: the same wiring, small widths, 32-pixel pictures, a window of 4."""
    clip, scratch = clip_tiny(), None
    if config.scratch_vision is not None:
        clip = dataclasses.replace(clip, vision=None)
        scratch = ProjectedVitConfig(vit=vit_tiny(), out_width=clip.projection_width)
    fusion, proprio, trunk = config.fusion, config.proprio, config.trunk
    if isinstance(fusion, CrossFusionConfig):
        fusion = CrossFusionConfig(width=clip.projection_width, num_heads=2)
    width = None if trunk.width is None else 56
    return dataclasses.replace(
        config,
        clip=clip,
        scratch_vision=scratch,
        window=4,
        fusion=fusion,
        image_pooling=_tiny_pooling(config.image_pooling, 32),
        text_pooling=None if config.text_pooling is None else _tiny_pooling(config.text_pooling, 16),
        proprio=proprio and ProprioEncoderConfig(out_width=8, hidden_widths=(6, 7)[: len(proprio.hidden_widths)]),
        trunk=dataclasses.replace(
            trunk,
            width=width,
            num_layers=trunk.num_layers // 2,
            num_heads=2,
            mlp_width=2 * width if width else 48,
        ),
        head=dataclasses.replace(config.head, hidden_widths=(width or 44,)[: len(config.head.hidden_widths)]),
    )


def _tiny_pooling(config: PoolingConfig, out_width: int) -> PoolingConfig:
    if isinstance(config, AttentionPoolingConfig):
        return dataclasses.replace(config, out_width=out_width, num_queries=2, num_heads=2, mlp_width=24)
    return dataclasses.replace(config, out_width=out_width)
