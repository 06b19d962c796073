"""QwenVLA-OFT, the baseline of DeepVision-VLA: Qwen3-VL reads a picture, words and empty action tokens, and a small
perceptron makes an action of each of the latter, all at once.

Axes: b batch, w window (one step), h horizon, a action, n tokens, v visual tokens, l layers, d width.
Source: DeepVision-VLA section 3.3.1 and Table 1; StarVLA's published QwenOFT where the paper is silent (horizon of 8,
one token a step). Everything trains. How the sequence is put together: `vlms/action_sequence.py`.
"""

import dataclasses

from flax import nnx
from jaxtyping import Array, Float, Key

from vla_jax.actions.token_regression import TokenRegressionConfig
from vla_jax.encoders.qwen3_vl import PictureTokens
from vla_jax.nn.stack import Edit, Taps
from vla_jax.policies.base import Policy, PolicyConfig, PretrainedPart
from vla_jax.types import ActionSpace, Batch, DataRequirements, Losses, Observation, PolicyContext
from vla_jax.vlms import qwen3_vl
from vla_jax.vlms.action_reader import ActionReaderConfig, ProbePlaces, small_reader, tiny_reader, word_attention
from vla_jax.vlms.action_sequence import ActionSequence
from vla_jax.vlms.qwen3_vl import Qwen3VlConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class QwenvlaOftConfig(PolicyConfig):
    vlm: Qwen3VlConfig
    vlm_weights: str | None = None
    """A local Hugging Face folder of the model, or one that `python -m vla_jax import` made."""
    reader: ActionReaderConfig = ActionReaderConfig()
    head: TokenRegressionConfig = TokenRegressionConfig()

    def __post_init__(self):
        self.reader.check(self.vlm)

    def build(self, rngs: nnx.Rngs) -> "QwenvlaOft":
        return QwenvlaOft(self, rngs=rngs)

    def data_requirements(self) -> DataRequirements:
        assert self.vlm.language is not None, "the reader asks for it"
        return DataRequirements(
            action_space=self.action_space,
            cameras=self.reader.requirements(),
            window=1,
            window_anchor="last",
            text_length=self.reader.text_length,
            vocab_size=self.vlm.language.decoder.vocab_size,
        )

    def pretrained_parts(self) -> tuple[PretrainedPart, ...]:
        assert self.vlm.vision is not None, "the reader asks for it"
        part = PretrainedPart(
            prefix="vlm",
            family="qwen3_vl",
            path=self.vlm_weights,
            frozen=False,
            settings=self.vlm.settings(),
            normalization=(self.vlm.vision.vit.normalization,),
            reads_text=True,
        )
        return (part,)


class QwenvlaOft(Policy):
    def __init__(self, config: QwenvlaOftConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vlm = config.vlm.build(rngs)
        self.reader = config.reader.build(config.vlm, config.action_space.proprio_width, rngs)
        self.head = config.head.build(self.vlm.text.config.width, config.action_space, rngs)

    def loss(self, batch: Batch, *, key: Key[Array, ""] | None) -> Losses:
        return self.head.loss(self.context(batch.observation), batch.action, batch.action_mask, key=key)

    def act(self, observation: Observation, *, key: Key[Array, ""] | None = None) -> Float[Array, "b h a"]:
        return self.head.sample(self.context(observation), key=key)[:, 0]

    def stages(self, observation: Observation) -> dict[str, Array]:
        sequence, pictures = self._read(observation)
        context = self.context(observation)
        assert context.tokens is not None
        stages = {
            f"picture_tokens/{slot}": picture.merged.tokens
            for slot, picture in zip(self.config.reader.cameras, pictures, strict=True)
        }
        stages["action_tokens"] = context.tokens[:, sequence.actions]
        stages["actions"] = self.head.sample(context, key=None)
        return stages

    def attention_maps(self, observation: Observation) -> dict[str, Float[Array, "b w t r c"]]:
        """By camera: where each word looks, in the middle half of the language model's layers."""
        sequence, pictures = self._read(observation)
        depth = self.vlm.text.config.num_layers
        maps = word_attention(self.vlm, sequence, pictures, range(depth // 4, depth - depth // 4))
        return dict(zip(self.config.reader.cameras, maps, strict=True))

    def act_edited(self, observation: Observation, edit: Edit) -> Float[Array, "b h a"]:
        """`act`, where `edit` changes what the language model's layers read."""
        return self.head.sample(self.context(observation, edit=edit), key=None)[:, 0]

    @property
    def probe_places(self) -> ProbePlaces:
        return self.config.reader.probe_places(self.config.vlm)

    def context(self, observation: Observation, *, edit: Edit | None = None) -> PolicyContext:
        sequence, _ = self._read(observation)
        found = self.vlm.hidden(sequence.inputs, mask=sequence.mask, taps=Taps(edit=edit))
        return PolicyContext(tokens=found.tokens, mask=sequence.inputs.valid)

    def _read(self, observation: Observation) -> tuple[ActionSequence, list[PictureTokens]]:
        return self.reader(self.vlm, observation, num_actions=self.head.num_tokens)


def qwenvla_oft(action_space: ActionSpace) -> QwenvlaOftConfig:
    """On Qwen3-VL-4B, as in the paper."""
    return QwenvlaOftConfig(action_space=action_space, vlm=qwen3_vl.qwen3_vl_4b())


PRESETS = {"qwenvla_oft": qwenvla_oft}


def qwenvla_oft_scratch(
    action_space: ActionSpace, *, image_size: int = 64, width: int = 64, num_layers: int = 4
) -> QwenvlaOftConfig:
    """The same wiring with a small tower and text model that train from nothing, in minutes on a CPU.

    Differs from the paper's: patches of 8 pixels; proprio and the wrist's camera are read; no turn
    around the words.
    """
    vlm = qwen3_vl.small(image_size=image_size, patch_size=8, width=width, num_layers=num_layers)
    return QwenvlaOftConfig(action_space=action_space, vlm=vlm, reader=small_reader(image_size))


def tiny(config: QwenvlaOftConfig) -> QwenvlaOftConfig:
    """The CPU twin: the same wiring, small widths, 32-pixel pictures."""
    return dataclasses.replace(
        config,
        vlm=qwen3_vl.tiny_with_words(),
        reader=tiny_reader(config.reader),
        head=dataclasses.replace(config.head, hidden_width=28),
    )
