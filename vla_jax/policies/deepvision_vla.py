"""DeepVision-VLA: QwenVLA-OFT whose last layers share attention with a vision expert, pruned to what the action tokens
look at. The expert sees the scene in detail.

Axes: b batch, w window (one step), y x pixels, h horizon, a action, n tokens, e patches of the expert, d width.
Source: DeepVision-VLA (arXiv 2603.15618) sections 3.3 and 4. DINOv3 ViT-H+ sees the primary camera's picture at 512
pixels, cut and coloured as the 256 of the language model's; its last 16 layers are coupled with the last 16 of
Qwen3-VL-4B, half of its patches are kept by the attention of layers 4 to 19. Everything trains. The ablations are
presets: other classes of `integration`, or other values of the coupling. What is not stated is resolved where it is
done: `vlms/deep_coupling.py`, `vlms/expert_features.py`, `fusion/shared_attention.py`, `fusion/pruning.py`.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from vla_jax.actions.token_regression import TokenRegressionConfig
from vla_jax.encoders import dinov3
from vla_jax.encoders.dinov3 import Dinov3Config
from vla_jax.encoders.qwen3_vl import PictureTokens
from vla_jax.nn.stack import Edit
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
from vla_jax.vlms import qwen3_vl
from vla_jax.vlms.action_reader import ActionReaderConfig, ProbePlaces, small_reader, tiny_reader, word_attention
from vla_jax.vlms.action_sequence import ActionSequence
from vla_jax.vlms.deep_coupling import DeepCouplingConfig, TowerCouplingConfig
from vla_jax.vlms.expert_features import EarlyConcatenationConfig, MiddleAlignmentConfig
from vla_jax.vlms.qwen3_vl import Qwen3VlConfig
from vla_jax.vlms.vision_expert import IntegrationConfig, Reading, Scene


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepvisionVlaConfig(PolicyConfig):
    vlm: Qwen3VlConfig
    vlm_weights: str | None = None
    """A local Hugging Face folder of the model, or one that `python -m vla_jax import` made."""
    expert: Dinov3Config | None
    """None: the integration takes the language model's own tower."""
    expert_weights: str | None = None
    """Likewise of the expert."""
    expert_image_size: int = 512
    reader: ActionReaderConfig = ActionReaderConfig()
    integration: IntegrationConfig = DeepCouplingConfig()
    head: TokenRegressionConfig = TokenRegressionConfig()

    def __post_init__(self):
        self.reader.check(self.vlm)
        if self.integration.has_expert is (self.expert is None):
            raise InputError(
                f"policy.expert is {'None' if self.expert is None else 'set'}, which {type(self.integration).__name__} "
                "is not made for"
            )
        if self.expert is not None and self.expert_image_size % self.expert.patch_size:
            raise InputError(
                f"policy.expert_image_size={self.expert_image_size}: a multiple of {self.expert.patch_size} expected"
            )
        self.integration.check(self.vlm, None if self.expert is None else self.expert.vit)

    @property
    def scene_slot(self) -> str:
        """The first camera's picture again, at the expert's size."""
        return f"{self.reader.cameras[0]}_high"

    def build(self, rngs: nnx.Rngs) -> "DeepvisionVla":
        return DeepvisionVla(self, rngs=rngs)

    def data_requirements(self) -> DataRequirements:
        assert self.vlm.language is not None, "the reader asks for it"
        cameras, size = self.reader.requirements(), self.expert_image_size
        if self.expert is not None:
            source = self.reader.cameras[0]
            scene = CameraRequirement(slot=self.scene_slot, height=size, width=size, source_slot=source)
            cameras = (*cameras, scene)
        return DataRequirements(
            action_space=self.action_space,
            cameras=cameras,
            window=1,
            window_anchor="last",
            text_length=self.reader.text_length,
            vocab_size=self.vlm.language.decoder.vocab_size,
        )

    def frozen_paths(self) -> tuple[str, ...]:
        return () if self.integration.trains_expert or self.expert is None else ("expert/.*",)

    def pretrained_parts(self) -> tuple[PretrainedPart, ...]:
        assert self.vlm.vision is not None, "the reader asks for it"
        model = PretrainedPart(
            prefix="vlm",
            family="qwen3_vl",
            path=self.vlm_weights,
            frozen=False,
            settings=self.vlm.settings(),
            normalization=(self.vlm.vision.vit.normalization,),
            reads_text=True,
        )
        if self.expert is None:
            return (model,)
        expert = PretrainedPart(
            prefix="expert",
            family="dinov3",
            path=self.expert_weights,
            frozen=not self.integration.trains_expert,
            settings=self.expert.settings(),
            normalization=(self.expert.vit.normalization,),
        )
        return (model, expert)


class DeepvisionVla(Policy):
    def __init__(self, config: DeepvisionVlaConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vlm = config.vlm.build(rngs)
        self.expert = None if config.expert is None else config.expert.build(rngs)
        self.reader = config.reader.build(config.vlm, config.action_space.proprio_width, rngs)
        expert = None if config.expert is None else config.expert.vit
        self.integration = config.integration.build(config.vlm, expert, rngs)
        self.head = config.head.build(self.vlm.text.config.width, config.action_space, rngs)

    def loss(self, batch: Batch, *, key: Key[Array, ""] | None) -> Losses:
        found, context = self.read(batch.observation)
        losses = self.head.loss(context, batch.action, batch.action_mask, key=key)
        if found.loss is None:
            return losses
        terms = losses.terms | {"alignment": found.loss}
        return dataclasses.replace(losses, total=losses.total + found.loss, terms=terms)

    def act(self, observation: Observation, *, key: Key[Array, ""] | None = None) -> Float[Array, "b h a"]:
        return self.head.sample(self.read(observation)[1], key=key)[:, 0]

    def stages(self, observation: Observation) -> dict[str, Array]:
        sequence, pictures = self._sequence(observation)
        found, context = self.read(observation)
        stages = {
            f"picture_tokens/{slot}": picture.merged.tokens
            for slot, picture in zip(self.config.reader.cameras, pictures, strict=True)
        }
        if found.guidance is not None:
            stages["guidance"] = found.guidance
        if found.loss is not None:
            stages["alignment"] = found.loss
        stages["action_tokens"] = found.tokens[:, sequence.actions]
        stages["actions"] = self.head.sample(context, key=None)
        return stages

    def attention_maps(self, observation: Observation) -> dict[str, Float[Array, "b w t r c"]]:
        """By camera: where each word looks, in the layers that guide the pruning or the middle half; and beside the
        expert's picture what the action tokens look at, the same for every word.
        """
        sequence, pictures = self._sequence(observation)
        depth = self.vlm.text.config.num_layers
        maps = word_attention(self.vlm, sequence, pictures, range(depth // 4, depth - depth // 4))
        named = dict(zip(self.config.reader.cameras, maps, strict=True))
        if self.expert is not None:
            found = self.read(observation)[0]
            rows, columns = self.expert.grid(observation.images[self.config.scene_slot][:, 0])
            scores = jnp.zeros((len(maps[0]), rows * columns)) if found.guidance is None else found.guidance
            num_words = maps[0].shape[2]
            every = jnp.broadcast_to(scores[:, None, None], (len(scores), 1, num_words, rows * columns))
            named[self.config.scene_slot] = every.reshape(*every.shape[:3], rows, columns)
        return named

    def act_edited(self, observation: Observation, edit: Edit) -> Float[Array, "b h a"]:
        """`act`, where `edit` changes what the language model's layers read."""
        return self.head.sample(self.read(observation, edit=edit)[1], key=None)[:, 0]

    @property
    def probe_places(self) -> ProbePlaces:
        return self.config.reader.probe_places(self.config.vlm)

    def read(self, observation: Observation, *, edit: Edit | None = None) -> tuple[Reading, PolicyContext]:
        sequence, pictures = self._sequence(observation)
        scene = self._scene(observation)
        found = self.integration.read(self.vlm, self.expert, sequence, pictures[0], scene, edit)
        return found, PolicyContext(tokens=found.tokens, mask=sequence.inputs.valid)

    def _sequence(self, observation: Observation) -> tuple[ActionSequence, list[PictureTokens]]:
        assert self.vlm.vision is not None
        first = observation.images[self.config.reader.cameras[0]]
        tower = self.vlm.vision.vit.grid(first[:, -1])
        return self.reader(
            self.vlm,
            observation,
            num_actions=self.head.num_tokens,
            taps=self.integration.vision_taps(),
            beside=self.integration.beside(self.expert, self._scene(observation), tower),
        )

    def _scene(self, observation: Observation) -> Scene | None:
        if self.expert is None:
            return None
        slot = self.config.scene_slot
        return Scene(observation.images[slot][:, -1], observation.image_masks[slot][:, -1])


# ---------------------------------------------------------------------------------------------
# Presets.


def deepvision_vla(action_space: ActionSpace) -> DeepvisionVlaConfig:
    """Section 3.3: Qwen3-VL-4B and DINOv3 ViT-H+."""
    return DeepvisionVlaConfig(action_space=action_space, vlm=qwen3_vl.qwen3_vl_4b(), expert=dinov3.dinov3_vith16plus())


def _with(integration: IntegrationConfig) -> Callable[[ActionSpace], DeepvisionVlaConfig]:
    def preset(action_space: ActionSpace) -> DeepvisionVlaConfig:
        full = deepvision_vla(action_space)
        expert = full.expert if integration.has_expert else None
        return dataclasses.replace(full, expert=expert, integration=integration)

    return preset


PRESETS: dict[str, Callable[[ActionSpace], DeepvisionVlaConfig]] = {
    "deepvision_vla": deepvision_vla,
    "dv_early_fusion": _with(EarlyConcatenationConfig()),
    "dv_mid_align": _with(MiddleAlignmentConfig()),
    "dv_feat_first": _with(DeepCouplingConfig(expert_layers="first", prune_mode="kv_only")),
    "dv_feat_uniform": _with(DeepCouplingConfig(expert_layers="uniform", prune_mode="kv_only")),
    "dv_feat_siglip": _with(TowerCouplingConfig()),
    "dv_guide_cls": _with(DeepCouplingConfig(guidance="cls")),
    "dv_guide_text": _with(DeepCouplingConfig(guidance="text")),
} | {f"dv_ref_{layer}": _with(DeepCouplingConfig(reference_layers=(layer,))) for layer in (4, 8, 12, 16)}
"""The paper's model first, then the ablations of section 4."""


def deepvision_vla_scratch(
    action_space: ActionSpace,
    *,
    image_size: int = 64,
    width: int = 64,
    num_layers: int = 4,
    expert_patch_size: int = 8,
) -> DeepvisionVlaConfig:
    """The same wiring with a small tower, text model and expert that train from nothing, in minutes on a CPU.

    Differs from the paper's: patches of 8 pixels in the tower; proprio and the wrist's camera are read; the expert's
    pictures are no larger.
    """
    half = num_layers // 2
    expert = Dinov3Config(
        width=width,
        num_layers=num_layers,
        num_heads=width // 16,
        mlp_width=2 * width,
        patch_size=expert_patch_size,
        image_size=image_size,
        remat="none",
    )
    return DeepvisionVlaConfig(
        action_space=action_space,
        vlm=qwen3_vl.small(image_size=image_size, patch_size=8, width=width, num_layers=num_layers),
        expert=expert,
        expert_image_size=image_size,
        reader=small_reader(image_size),
        integration=DeepCouplingConfig(num_layers=half, reference_layers=tuple(range(1, half))),
    )


def tiny(config: DeepvisionVlaConfig) -> DeepvisionVlaConfig:
    """The CPU twin of any of the above: the same wiring, small widths, pictures of 32 pixels and 64 for the expert."""
    return dataclasses.replace(
        config,
        vlm=qwen3_vl.tiny_with_words(),
        expert=None if config.expert is None else dinov3.tiny(gated_mlp=config.expert.gated_mlp),
        expert_image_size=64,
        reader=tiny_reader(config.reader),
        integration=config.integration.tiny(),
        head=dataclasses.replace(config.head, hidden_width=28),
    )
