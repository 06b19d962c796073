"""Qwen3-VL with a vision expert that looks at the same scene: what every way of joining them has in common.

Axes: b batch, n tokens of the language model, e tokens of the expert, m merged patches, w their hidden width, d width,
y x pixels. `deep_coupling.py` is DeepVision-VLA's way (section 3.3), `expert_features.py` has its ablations'.
"""

import dataclasses
from typing import ClassVar, NamedTuple

from flax import nnx
from jaxtyping import Array, Bool, Float, UInt8

from vla_jax.encoders.qwen3_vl import PictureTokens
from vla_jax.encoders.vit import Vit, VitConfig
from vla_jax.nn.stack import NO_TAPS, Edit, Taps
from vla_jax.vlms.action_sequence import ActionSequence
from vla_jax.vlms.qwen3_vl import Qwen3Vl, Qwen3VlConfig


class Scene(NamedTuple):
    """What the expert sees."""

    images: UInt8[Array, "b y x 3"]
    is_there: Bool[Array, "b"]


class Reading(NamedTuple):
    tokens: Float[Array, "b n d"]
    """Of the language model, after its final norm."""
    guidance: Float[Array, "b e"] | None = None
    """Scores of the expert's patches, by which they were kept."""
    loss: Float[Array, ""] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntegrationConfig:
    """How a language model and a vision expert are joined. One of the classes below."""

    has_expert: ClassVar[bool] = True
    trains_expert: ClassVar[bool] = True

    def check(self, model: Qwen3VlConfig, expert: VitConfig | None) -> None:
        """Raises InputError where the two cannot be joined so."""

    def tiny(self) -> "IntegrationConfig":
        """For the CPU twins of both."""
        return self

    def build(self, model: Qwen3VlConfig, expert: VitConfig | None, rngs: nnx.Rngs) -> "Integration":
        raise NotImplementedError


class Integration(nnx.Module):
    def vision_taps(self) -> Taps:
        """What is asked of the model's own tower."""
        return NO_TAPS

    def beside(self, expert: Vit | None, scene: Scene | None, tower: tuple[int, int]) -> Float[Array, "b m w"] | None:
        """As `Qwen3VlVision` takes it. Args: tower: rows and columns of the model's own patches."""
        return None

    def read(
        self,
        model: Qwen3Vl,
        expert: Vit | None,
        sequence: ActionSequence,
        picture: PictureTokens,
        scene: Scene | None,
        edit: Edit | None = None,
    ) -> Reading:
        """Args: picture: the one that shows the scene, the first of the sequence."""
        found = model.hidden(sequence.inputs, mask=sequence.mask, taps=Taps(edit=edit))
        return Reading(found.tokens)


def merged_grid(picture: PictureTokens) -> tuple[int, int]:
    return picture.merged.rows, picture.merged.columns
