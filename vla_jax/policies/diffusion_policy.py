"""Diffusion Policy: two steps of pictures and proprio are the condition of a U-Net that takes a chunk out of noise.

Axes: b batch, w window, y x pixels, e width of a camera's feature, p proprio, c = w * (cameras * e + p), t text tokens,
h horizon, a action.
Source: Diffusion Policy (arXiv 2303.04137), sections 3 and 5.1, and published code
(`train_diffusion_unet_real_image_workspace.yaml`, `diffusion_unet_hybrid_image_policy.py`): an observation horizon of
2, a prediction horizon of 16 of which 8 are carried out, ResNet-18 with group norm and spatial softmax a camera, from
scratch; 100 steps of diffusion, DDIM with 10 where it acts, actions within -1..1.
Differs: a chunk begins at the present step (published: at the first step of the observation); padded steps and missing
cameras are zero (published: the first step is repeated); pictures of 224 pixels, cropped by the pipeline (published:
216 x 288 of 240 x 320). The original reads no sentence; `diffusion_policy_text` does, by FiLM in the ResNets with
CLIP's frozen embedding of it, so that it can be compared on tasks that are told in words.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from vla_jax.actions.diffusion import DiffusionConfig
from vla_jax.actions.unet_denoiser import UnetDenoiserConfig
from vla_jax.encoders.clip import ClipConfig, clip_b32, clip_tiny
from vla_jax.encoders.resnet import ResNetConfig
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

HEAD = DiffusionConfig(
    denoiser=UnetDenoiserConfig(), num_steps=100, sampler="ddim", num_sampling_steps=10, limit=1.0, summed=False
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionPolicyConfig(PolicyConfig):
    clip: ClipConfig | None = None
    """Its text half, without a vision half; None: no sentence is read."""
    clip_weights: str | None = None
    """A local Hugging Face folder of the CLIP model, or one that `python -m vla_jax import` made: its parameters."""
    train_clip: bool = False
    cameras: tuple[str, ...] = ("primary", "wrist")
    resnet: ResNetConfig = ResNetConfig()
    """Of each camera, one of its own."""
    window: int = 2
    text_length: int = 16
    head: DiffusionConfig = HEAD

    def __post_init__(self):
        if self.clip is not None and (self.clip.text is None or self.clip.vision is not None):
            raise InputError("policy.clip: the text half alone is expected (clip.vision null)")
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise InputError(f"policy.cameras={self.cameras}: one or more different camera slots expected")
        if self.window < 1:
            raise InputError(f"policy.window={self.window}: 1 or more expected")

    @property
    def condition_width(self) -> int:
        step = len(self.cameras) * self.resnet.out_width + self.action_space.proprio_width
        return self.window * step

    def build(self, rngs: nnx.Rngs) -> "DiffusionPolicy":
        return DiffusionPolicy(self, rngs=rngs)

    def data_requirements(self) -> DataRequirements:
        size, text = self.resnet.image_size, None if self.clip is None else self.clip.text
        return DataRequirements(
            action_space=self.action_space,
            cameras=tuple(CameraRequirement(slot=slot, height=size, width=size) for slot in self.cameras),
            window=self.window,
            window_anchor="last",
            text_length=self.text_length,
            vocab_size=None if text is None else text.vocab_size,
        )

    def frozen_paths(self) -> tuple[str, ...]:
        return () if self.clip is None or self.train_clip else ("clip/.*",)

    def pretrained_parts(self) -> tuple[PretrainedPart, ...]:
        if self.clip is None:
            return ()
        part = PretrainedPart(
            prefix="clip",
            family="clip",
            path=self.clip_weights,
            frozen=not self.train_clip,
            settings=self.clip.settings(),
            reads_text=True,
        )
        return (part,)


class DiffusionPolicy(Policy):
    def __init__(self, config: DiffusionPolicyConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.clip = None if config.clip is None else config.clip.build(rngs)
        width = None if config.clip is None else config.clip.projection_width
        self.resnets = nnx.Dict({slot: config.resnet.build(rngs, condition_width=width) for slot in config.cameras})
        self.head = config.head.build(config.condition_width, config.action_space, rngs)

    def loss(self, batch: Batch, *, key: Key[Array, ""] | None) -> Losses:
        context = self.context(batch.observation)
        return self.head.loss(context, batch.action[:, -1:], batch.action_mask[:, -1:], key=key)

    def act(
        self,
        observation: Observation,
        *,
        key: Key[Array, ""] | None = None,
        text: Float[Array, "b e"] | None = None,
    ) -> Float[Array, "b h a"]:
        """Without a key the chunk that begins at no noise at all. Args: text: as `read_instruction` gives it."""
        return self.head.sample(self.context(observation, text), key=key)[:, 0]

    def stages(self, observation: Observation) -> dict[str, Array]:
        text = self.read_instruction(observation.instruction_tokens, observation.instruction_mask)
        stages = {} if self.clip is None else {"sentence": text}
        for slot in self.config.cameras:
            stages[f"camera_feature/{slot}"] = self.camera_feature(observation, slot, text)
        context = self.context(observation)
        assert context.queries is not None
        return stages | {"condition": context.queries, "actions": self.head.sample(context, key=None)}

    def context(self, observation: Observation, text: Float[Array, "b e"] | None = None) -> PolicyContext:
        """All of the window as one condition."""
        mask = observation.timestep_mask
        if text is None:
            text = self.read_instruction(observation.instruction_tokens, observation.instruction_mask)
        parts = [
            self.camera_feature(observation, slot, text) * (observation.image_masks[slot] & mask)[..., None]
            for slot in self.config.cameras
        ]
        parts.append((observation.proprio * mask[..., None]).astype(parts[0].dtype))
        steps = jnp.concatenate(parts, axis=-1)
        missing = self.config.window - steps.shape[1]
        steps = jnp.pad(steps, ((0, 0), (missing, 0), (0, 0)))
        return PolicyContext(queries=steps.reshape(len(steps), 1, -1))

    def camera_feature(self, observation: Observation, slot: str, text: Float[Array, "b f"]) -> Float[Array, "b w e"]:
        images = observation.images[slot]
        pictures, condition = images.reshape(-1, *images.shape[2:]), None
        if self.clip is not None:
            condition = jnp.repeat(text, images.shape[1], axis=0)
        return self.resnets[slot](pictures, condition).reshape(*images.shape[:2], -1)

    def read_instruction(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b e"]:
        """The sentence; zero where there is none, and of no width where the policy reads no words."""
        if self.clip is None:
            return jnp.zeros((len(ids), 0))
        return self.clip.text_embedding(ids, mask) * mask.any(axis=1)[:, None]


def diffusion_policy(action_space: ActionSpace) -> DiffusionPolicyConfig:
    """The published one, which reads no words."""
    return DiffusionPolicyConfig(action_space=action_space)


def diffusion_policy_text(action_space: ActionSpace) -> DiffusionPolicyConfig:
    """With the sentence. Ours."""
    return DiffusionPolicyConfig(action_space=action_space, clip=dataclasses.replace(clip_b32(), vision=None))


PRESETS = {"diffusion_policy": diffusion_policy, "diffusion_policy_text": diffusion_policy_text}


def tiny(config: DiffusionPolicyConfig) -> DiffusionPolicyConfig:
    """The CPU twin of any of the above: the same wiring, small widths, 48-pixel pictures, three steps of DDIM."""
    denoiser = UnetDenoiserConfig(widths=(16, 24, 32), num_groups=4, time_width=12)
    return dataclasses.replace(
        config,
        clip=None if config.clip is None else dataclasses.replace(clip_tiny(), vision=None),
        resnet=ResNetConfig(widths=(8, 12), depths=(1, 2), group_width=4, num_keypoints=5, out_width=7, image_size=48),
        head=dataclasses.replace(config.head, denoiser=denoiser, num_steps=10, num_sampling_steps=3),
    )
