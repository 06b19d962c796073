"""OpenVLA: a picture and a sentence go into a language model, which writes the action as tokens, one after another.

Axes: b batch, y x pixels, m picture tokens, n text tokens, q targets, h horizon, a action, d width, v vocabulary.
Source: OpenVLA (arXiv 2406.09246), section 3, and published code: DINOv2 + SigLIP at 224 pixels, Llama 2 7B, everything
trained, prompt as in `language/prompts.py`, 256 bins between the 1st and 99th percentile, greedy decoding.
The sequence is begin of text, picture, the rest of the prompt, the action's tokens, end of text.
Differs: chunks longer than one step are written step by step (published: one step); masked targets and a missing
picture take no part; parameters that no output rests on (the encoders' last norms, SigLIP's pooling) are frozen.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from vla_jax.actions.bins import BinsConfig
from vla_jax.language import generation
from vla_jax.language.action_tokens import ActionTokens
from vla_jax.language.continuation import continuation, outputs_before
from vla_jax.language.generation import DecodingConfig, Prefix, Prompt
from vla_jax.language.prompts import OPENVLA, PromptTemplate
from vla_jax.policies.base import Policy, PolicyConfig, PretrainedPart
from vla_jax.types import ActionSpace, Batch, CameraRequirement, DataRequirements, InputError, Losses, Observation
from vla_jax.vlms import openvla as vlm_module
from vla_jax.vlms.openvla import OpenVlaConfig as VlmConfig

IDLE = ("vlm/vision/(dino|siglip)/final_norm/.*", "vlm/vision/siglip_pooling/.*")
"""Parameters of the released files that no output rests on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenVlaPolicyConfig(PolicyConfig):
    vlm: VlmConfig
    vlm_weights: str | None = None
    """A local Hugging Face folder of OpenVLA, or one that `python -m vla_jax import` made: its parameters."""
    train_vision: bool = True
    """False: both encoders are frozen (the paper's ablation)."""
    camera: str = "primary"
    text_length: int = 48
    """Of the whole prompt: 17 of Llama's tokens stand around the instruction."""
    template: PromptTemplate = OPENVLA
    action_tokens: ActionTokens = ActionTokens()
    bins: BinsConfig = BinsConfig()

    def __post_init__(self):
        rows, vocabulary = self.vlm.language.decoder.vocab_size, self.action_tokens.vocab_size
        if vocabulary > rows or self.action_tokens.num_edges >= vocabulary:
            raise InputError(
                f"policy.action_tokens.vocab_size={vocabulary}: more than {self.action_tokens.num_edges} and at most "
                f"the {rows} rows of the language model's table expected"
            )

    def build(self, rngs: nnx.Rngs) -> "OpenVla":
        return OpenVla(self, rngs=rngs)

    def prompt(self) -> PromptTemplate:
        return self.template

    def data_requirements(self) -> DataRequirements:
        size = self.vlm.vision.image_size
        return DataRequirements(
            action_space=self.action_space,
            cameras=(CameraRequirement(slot=self.camera, height=size, width=size),),
            window=1,
            window_anchor="last",
            text_length=self.text_length,
            vocab_size=self.vlm.language.decoder.vocab_size,
        )

    def frozen_paths(self) -> tuple[str, ...]:
        return IDLE if self.train_vision else ("vlm/vision/.*",)

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


class OpenVla(Policy):
    def __init__(self, config: OpenVlaPolicyConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vlm = config.vlm.build(rngs)
        self.bins = config.bins.build(config.action_tokens, config.action_space)

    def loss(self, batch: Batch, *, key: Key[Array, ""] | None) -> Losses:
        decoder, prompt = self.vlm.language, self.prompt(batch.observation)
        targets = self.bins.targets(batch.action[:, -1:], batch.action_mask[:, -1:])
        given = continuation(decoder, prompt, decoder.embed(targets.ids[:, :-1]))
        hidden = decoder.hidden(given.embeddings, mask=given.mask, rotation=given.rotation).tokens
        return self.bins.loss(outputs_before(prompt, hidden, targets.ids.shape[1]), targets, decoder.logits)

    def act(self, observation: Observation, *, key: Key[Array, ""] | None = None) -> Float[Array, "b h a"]:
        """Greedy, whatever the key."""
        return self.bins.actions(self.write(self.read(self.prompt(observation))))[:, 0]

    def stages(self, observation: Observation) -> dict[str, Array]:
        prompt = self.prompt(observation)
        prefix = self.read(prompt)
        return {
            "picture_tokens": self.picture_tokens(observation),
            "prompt_output": prefix.last,
            "first_logits": self.vlm.language.logits(prefix.last),
            "actions": self.bins.actions(self.write(prefix)),
        }

    def picture_tokens(self, observation: Observation) -> Float[Array, "b m d"]:
        return self.vlm.picture_tokens(observation.images[self.config.camera][:, -1])

    def prompt(self, observation: Observation) -> Prompt:
        pictures = self.picture_tokens(observation)
        seen = jnp.broadcast_to(observation.image_masks[self.config.camera][:, -1:], pictures.shape[:2])
        return self.vlm.prompt(observation.instruction_tokens, observation.instruction_mask, pictures, seen)

    def read(self, prompt: Prompt) -> Prefix:
        return generation.prefill(self.vlm.language, prompt, self.bins.num_tokens - 1)

    def write(self, prefix: Prefix) -> Int[Array, "b t"]:
        return generation.decode(self.vlm.language, prefix, DecodingConfig(num_tokens=self.bins.num_tokens))


def openvla(action_space: ActionSpace) -> OpenVlaPolicyConfig:
    """OpenVLA-7B."""
    return OpenVlaPolicyConfig(action_space=action_space, vlm=vlm_module.openvla_7b())


PRESETS = {"openvla": openvla}


def tiny(config: OpenVlaPolicyConfig) -> OpenVlaPolicyConfig:
    """The CPU twin: the same wiring, small widths, 40-pixel pictures, the built-in tokenizer's ids and 256 more.

    The built-in tokenizer has no token for a blank that the prompt could end with, and needs more ids for its words.
    """
    vlm = vlm_module.tiny()
    decoder = dataclasses.replace(vlm.language.decoder, vocab_size=790)
    return dataclasses.replace(
        config,
        vlm=dataclasses.replace(vlm, language=dataclasses.replace(vlm.language, decoder=decoder)),
        text_length=20,
        template=PromptTemplate(template="{instruction}?"),
        action_tokens=ActionTokens(vocab_size=768),
    )
