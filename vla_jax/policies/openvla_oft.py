"""OpenVLA-OFT: OpenVLA's parts, the whole chunk in one pass, continuous actions by L1; several cameras, proprio, FiLM.

Axes: b batch, c cameras, y x pixels, m picture tokens, n text tokens, q = h * a action slots, h horizon, a action,
p proprio, d width.
Source: OpenVLA-OFT (arXiv 2502.19645) and published `prismatic/extern/hf/modeling_prismatic.py`, `action_heads.py`,
`projectors.py`, `film_vit_wrapper.py`. The sequence is begin of text, pictures, proprio, the rest of the prompt, one
slot a number whose embedding is zero, end of text; every token sees every other one. Slots differ by their positions
alone. As in the published code the output that stands for a slot is that of the token before it. FiLM's condition is
the mean of the embeddings of prompt and end.
Differs: padding takes no part in that mean; FiLM starts as nothing, and there is none in the encoders' last blocks,
which take no part; a missing picture is not seen; masked targets do not count. Parameters that no output rests on are
frozen.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from vla_jax.actions.residual_regression import ResidualRegressionConfig
from vla_jax.encoders.prismatic import Films
from vla_jax.language.continuation import continuation, outputs_before
from vla_jax.language.generation import Prompt
from vla_jax.language.prompts import OPENVLA, PromptTemplate
from vla_jax.nn.linear import linear
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
from vla_jax.vlms import openvla as vlm_module
from vla_jax.vlms.openvla import OpenVlaConfig as VlmConfig

IDLE = (
    "vlm/vision/(dino|siglip)/final_norm/.*",
    "vlm/vision/siglip_pooling/.*",
    "vlm/language/head/.*",
)
"""Parameters of the released files that no output rests on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenVlaOftConfig(PolicyConfig):
    vlm: VlmConfig
    vlm_weights: str | None = None
    """A local Hugging Face folder of OpenVLA, or one that `python -m vla_jax import` made: its parameters."""
    cameras: tuple[str, ...] = ("primary", "wrist")
    text_length: int = 48
    """Of the whole prompt: 17 of Llama's tokens stand around the instruction."""
    template: PromptTemplate = OPENVLA
    reads_proprio: bool = True
    film: bool = False
    """True: the sentence modulates the vision encoders (OpenVLA-OFT+)."""
    end_id: int = 2
    """The token behind the slots: Llama's `</s>`."""
    head: ResidualRegressionConfig = ResidualRegressionConfig()

    def __post_init__(self):
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise InputError(f"policy.cameras={self.cameras}: one or more different camera slots expected")

    def build(self, rngs: nnx.Rngs) -> "OpenVlaOft":
        return OpenVlaOft(self, rngs=rngs)

    def prompt(self) -> PromptTemplate:
        return self.template

    def data_requirements(self) -> DataRequirements:
        size = self.vlm.vision.image_size
        return DataRequirements(
            action_space=self.action_space,
            cameras=tuple(CameraRequirement(slot=slot, height=size, width=size) for slot in self.cameras),
            window=1,
            window_anchor="last",
            text_length=self.text_length,
            vocab_size=self.vlm.language.decoder.vocab_size,
        )

    def frozen_paths(self) -> tuple[str, ...]:
        return IDLE

    def pretrained_parts(self) -> tuple[PretrainedPart, ...]:
        part = PretrainedPart(
            prefix="vlm",
            family="openvla",
            path=self.vlm_weights,
            frozen=False,
            settings=self.vlm.settings(),
            normalization=tuple(encoder.normalization for encoder in self.vlm.vision.encoders),
            reads_text=True,
        )
        return (part,)


class ProprioProjector(nnx.Module):
    """One token of the measured state."""

    def __init__(self, in_width: int, width: int, *, rngs: nnx.Rngs):
        self.first = linear(in_width, width, (None, "embed"), rngs=rngs)
        self.second = linear(width, width, ("embed", "feature"), rngs=rngs)

    def __call__(self, proprio: Float[Array, "b p"]) -> Float[Array, "b 1 d"]:
        return self.second(jax.nn.gelu(self.first(proprio), approximate=False))[:, None]


class OpenVlaOft(Policy):
    def __init__(self, config: OpenVlaOftConfig, *, rngs: nnx.Rngs):
        self.config = config
        space, width = config.action_space, config.vlm.language.decoder.width
        self.num_slots = space.horizon * space.action_width
        self.vlm = config.vlm.build(rngs)
        self.film = Films(config.vlm.vision, width, rngs=rngs) if config.film else None
        self.proprio = ProprioProjector(space.proprio_width, width, rngs=rngs) if config.reads_proprio else None
        self.head = config.head.build(width, space, rngs)

    def loss(self, batch: Batch, *, key: Key[Array, ""] | None) -> Losses:
        context = self.context(batch.observation)
        return self.head.loss(context, batch.action[:, -1:], batch.action_mask[:, -1:], key=key)

    def act(self, observation: Observation, *, key: Key[Array, ""] | None = None) -> Float[Array, "b h a"]:
        return self.head.sample(self.context(observation), key=key)[:, 0]

    def stages(self, observation: Observation) -> dict[str, Array]:
        stages = {f"picture_tokens/{slot}": self.picture_tokens(observation, slot) for slot in self.config.cameras}
        if self.proprio is not None:
            stages["proprio_token"] = self.proprio_token(observation)
        context = self.context(observation)
        assert context.tokens is not None
        return stages | {"readouts": context.tokens, "actions": self.head.sample(context, key=None)}

    def context(self, observation: Observation) -> PolicyContext:
        """One read-out a number of the chunk."""
        decoder, prompt = self.vlm.language, self.prompt(observation)
        end = self.end(len(observation.timestep_mask))
        slots = jnp.zeros((len(end), self.num_slots, end.shape[-1]), end.dtype)
        given = continuation(decoder, prompt, jnp.concatenate([slots, end], axis=1), "all")
        hidden = decoder.hidden(given.embeddings, mask=given.mask, rotation=given.rotation).tokens
        return PolicyContext(tokens=outputs_before(prompt, hidden, self.num_slots))

    def prompt(self, observation: Observation) -> Prompt:
        tokens = [self.picture_tokens(observation, slot) for slot in self.config.cameras]
        masks = [observation.image_masks[slot][:, -1:] for slot in self.config.cameras]
        if self.proprio is not None:
            tokens.append(self.proprio_token(observation).astype(tokens[0].dtype))
            masks.append(jnp.ones_like(masks[0]))
        seen = [jnp.broadcast_to(mask, token.shape[:2]) for mask, token in zip(masks, tokens, strict=True)]
        ids, valid = observation.instruction_tokens, observation.instruction_mask
        return self.vlm.prompt(ids, valid, jnp.concatenate(tokens, axis=1), jnp.concatenate(seen, axis=1))

    def picture_tokens(self, observation: Observation, slot: str) -> Float[Array, "b m d"]:
        images = observation.images[slot][:, -1]
        if self.film is None:
            return self.vlm.picture_tokens(images)
        return self.vlm.picture_tokens(images, self.film, self.sentence(observation))

    def sentence(self, observation: Observation) -> Float[Array, "b d"]:
        """FiLM's condition: the mean embedding of prompt and end."""
        valid = observation.instruction_mask
        words = self.vlm.language.embed(jnp.where(valid, observation.instruction_tokens, 0))
        words = jnp.concatenate([words, self.end(len(words))], axis=1)
        return _mean(words, jnp.pad(valid, ((0, 0), (0, 1)), constant_values=True))

    def proprio_token(self, observation: Observation) -> Float[Array, "b 1 d"]:
        assert self.proprio is not None
        kernel = self.proprio.first.kernel[...]
        return self.proprio(observation.proprio[:, -1].astype(kernel.dtype))

    def end(self, batch: int) -> Float[Array, "b 1 d"]:
        return self.vlm.language.embed(jnp.full((batch, 1), self.config.end_id))


def _mean(x: Float[Array, "b n d"], valid: Bool[Array, "b n"]) -> Float[Array, "b d"]:
    total = jnp.where(valid[..., None], x, 0).astype(jnp.float32).sum(axis=1)
    return (total / valid.sum(axis=1)[:, None]).astype(x.dtype)


def openvla_oft(action_space: ActionSpace) -> OpenVlaOftConfig:
    """As on LIBERO: two cameras, proprio; a chunk of 8 there."""
    return OpenVlaOftConfig(action_space=action_space, vlm=vlm_module.openvla_7b())


def openvla_oft_film(action_space: ActionSpace) -> OpenVlaOftConfig:
    """OpenVLA-OFT+, as on ALOHA (three cameras and a chunk of 25 there)."""
    return dataclasses.replace(openvla_oft(action_space), film=True)


PRESETS = {"openvla_oft": openvla_oft, "openvla_oft_film": openvla_oft_film}


def tiny(config: OpenVlaOftConfig) -> OpenVlaOftConfig:
    """The CPU twin of any of the above: the same wiring, small widths, 40-pixel pictures, the built-in tokenizer."""
    vlm = vlm_module.tiny()
    decoder = dataclasses.replace(vlm.language.decoder, vocab_size=530)
    return dataclasses.replace(
        config,
        vlm=dataclasses.replace(vlm, language=dataclasses.replace(vlm.language, decoder=decoder)),
        text_length=20,
        template=PromptTemplate(template="{instruction}?"),
        head=dataclasses.replace(config.head, hidden_width=28),
    )
