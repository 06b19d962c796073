"""Features of a vision expert as DeepVision-VLA's ablations use them: beside the tower's, or as a target.

Axes: b batch, n tokens of the language model, e patches of the expert, m merged patches of the tower, w their hidden
width, c width of the expert.
Source: DeepVision-VLA section 4. `EarlyConcatenation`: features concatenated before the projector. `MiddleAlignment`:
visual tokens of a middle layer drawn to those of a frozen expert, as in Don't Blind Your VLA.

Not stated there and resolved here: the expert's patches are averaged to the grid that they meet; those that are
concatenated begin with no weight in the projector, so that the pretrained model is unchanged at first; the alignment is
a cosine distance behind a projector of two layers that trains, at the middle of the language model, its weight 0.2.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from vla_jax.encoders.qwen3_vl import PictureTokens
from vla_jax.encoders.vit import Vit, VitConfig
from vla_jax.nn.linear import linear
from vla_jax.nn.mlp import MlpConfig
from vla_jax.nn.norms import l2_normalize
from vla_jax.nn.stack import Edit, Taps
from vla_jax.types import InputError
from vla_jax.vlms.action_sequence import ActionSequence
from vla_jax.vlms.qwen3_vl import Qwen3Vl, Qwen3VlConfig
from vla_jax.vlms.vision_expert import Integration, IntegrationConfig, Reading, Scene, merged_grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyConcatenationConfig(IntegrationConfig):
    def check(self, model: Qwen3VlConfig, expert: VitConfig | None) -> None:
        if expert is None:
            raise InputError("policy.expert is None: there are no features to concatenate")

    def build(self, model: Qwen3VlConfig, expert: VitConfig | None, rngs: nnx.Rngs) -> "EarlyConcatenation":
        return EarlyConcatenation(model, expert, rngs=rngs)


class EarlyConcatenation(Integration):
    """The expert's features, averaged to the tower's grid, stand beside the tower's before they are merged."""

    def __init__(self, model: Qwen3VlConfig, expert: VitConfig | None, *, rngs: nnx.Rngs):
        assert model.vision is not None
        assert expert is not None
        self.merge_size, merged = model.vision.merge_size, model.vision.merged_width
        self.projection = linear(
            expert.width * self.merge_size**2,
            merged,
            ("embed", "mlp"),
            use_bias=False,
            kernel_init=nnx.initializers.zeros,
            rngs=rngs,
        )

    def beside(self, expert: Vit | None, scene: Scene | None, tower: tuple[int, int]) -> Float[Array, "b m w"] | None:
        assert expert is not None
        assert scene is not None
        features = expert(scene.images)
        pooled = averaged(features.tokens, (features.rows, features.columns), tower)
        pattern = "b (r i c j) d -> b (r c) (i j d)"
        windows = rearrange(pooled, pattern, i=self.merge_size, j=self.merge_size, c=tower[1] // self.merge_size)
        return self.projection(windows) * scene.is_there[:, None, None].astype(windows.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MiddleAlignmentConfig(IntegrationConfig):
    trains_expert: ClassVar[bool] = False
    layer: int = 17
    """Of the language model, counted from 0; its visual tokens are drawn to the expert's patches."""
    weight: float = 0.2
    hidden_width: int = 2048
    """Of the projector."""

    def check(self, model: Qwen3VlConfig, expert: VitConfig | None) -> None:
        assert model.language is not None
        if expert is None:
            raise InputError("policy.expert is None: there is nothing to align with")
        if not 0 <= self.layer < model.language.decoder.num_layers - 1:
            raise InputError(
                f"policy.integration.layer={self.layer}: a layer before the last, 0 to "
                f"{model.language.decoder.num_layers - 2}, expected"
            )

    def tiny(self) -> "MiddleAlignmentConfig":
        return dataclasses.replace(self, layer=2, hidden_width=26)

    def build(self, model: Qwen3VlConfig, expert: VitConfig | None, rngs: nnx.Rngs) -> "MiddleAlignment":
        return MiddleAlignment(self, model, expert, rngs=rngs)


class MiddleAlignment(Integration):
    """The expert takes part in the loss alone; actions do not read it."""

    def __init__(
        self, config: MiddleAlignmentConfig, model: Qwen3VlConfig, expert: VitConfig | None, *, rngs: nnx.Rngs
    ):
        self.config = config
        assert model.language is not None
        assert expert is not None
        projector = MlpConfig(hidden_width=config.hidden_width, out_width=expert.width)
        self.projector = projector.build(model.language.decoder.width, rngs)

    def read(
        self,
        model: Qwen3Vl,
        expert: Vit | None,
        sequence: ActionSequence,
        picture: PictureTokens,
        scene: Scene | None,
        edit: Edit | None = None,
    ) -> Reading:
        assert expert is not None
        assert scene is not None
        taps = Taps(layers=(self.config.layer,), edit=edit)
        found = model.hidden(sequence.inputs, mask=sequence.mask, taps=taps)
        assert found.layers is not None
        start, stop = sequence.pictures[0]
        features = expert(scene.images)
        target = averaged(features.tokens, (features.rows, features.columns), merged_grid(picture))
        target = l2_normalize(jax.lax.stop_gradient(target).astype(jnp.float32))
        projected = l2_normalize(self.projector(found.layers[0, :, start:stop]).astype(jnp.float32))
        distance = 1 - jnp.sum(projected * target, axis=-1).mean(axis=1)
        is_there = scene.is_there & sequence.inputs.valid[:, start]
        loss = jnp.where(is_there, distance, 0.0).sum() / jnp.maximum(is_there.sum(), 1)
        return Reading(found.tokens, loss=self.config.weight * loss)


def averaged(tokens: Float[Array, "b e c"], grid: tuple[int, int], coarser: tuple[int, int]) -> Float[Array, "b m c"]:
    """Means over equal rectangles of the grid. Raises InputError where they are not equal."""
    if grid[0] % coarser[0] or grid[1] % coarser[1]:
        raise InputError(
            f"policy.expert: a grid of {grid[0]} x {grid[1]} patches, no multiple of the {coarser[0]} x {coarser[1]} "
            "that its features are averaged to; choose another expert_image_size"
        )
    pattern = "b (r i c j) d -> b (r c) i j d"
    sizes = {"i": grid[0] // coarser[0], "j": grid[1] // coarser[1], "c": coarser[1]}
    return rearrange(tokens, pattern, **sizes).mean(axis=(2, 3))
