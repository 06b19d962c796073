"""The policy protocol: what training, evaluation, serving and export ask of every policy.

Axes: b batch, w window, h horizon, a action.
"""

import abc
import dataclasses
from typing import Any

from flax import nnx
from jaxtyping import Array, Float, Key

from vla_jax.language.prompts import PromptTemplate
from vla_jax.types import ActionSpace, Batch, DataRequirements, Losses, Observation, PictureNormalization


class Policy(nnx.Module):
    """A model that can be trained and asked for actions. Subclasses are wiring only."""

    def loss(self, batch: Batch, *, key: Key[Array, ""] | None) -> Losses:
        """Args: key: for dropout and noise; None means deterministic."""
        raise NotImplementedError

    def act(self, observation: Observation, *, key: Key[Array, ""] | None = None) -> Float[Array, "b h a"]:
        """The action chunk, still normalised, predicted at the last valid step of each window."""
        raise NotImplementedError

    def stages(self, observation: Observation) -> dict[str, Array]:
        """Intermediate results by name in the order of computation, the last one `actions` [b, w, h, a]; deterministic.

        What an exported model is compared by, under the same names.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedPart:
    """A part of a policy whose parameters come from elsewhere."""

    prefix: str
    """Parameter path of the part, e.g. `clip`."""
    family: str
    """The rule table of `convert/families` that reads it."""
    path: str | None
    """A local Hugging Face folder; None: nothing named, the part stays random."""
    frozen: bool
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the folder's config.json must say, nested as there: what shapes alone cannot tell apart."""
    normalization: tuple[PictureNormalization, ...] = ()
    """Of its picture encoders; compared where the folder says how its pictures are normalised."""
    reads_text: bool = False
    """True: its weights mean nothing without the vocabulary that they were trained with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig(abc.ABC):
    """What every policy's config has. The action space is declared here and nowhere else."""

    action_space: ActionSpace

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs) -> Policy: ...

    @abc.abstractmethod
    def data_requirements(self) -> DataRequirements: ...

    def frozen_paths(self) -> tuple[str, ...]:
        """Regular expressions; a parameter whose whole path matches one gets no gradient and no optimizer state."""
        return ()

    def pretrained_parts(self) -> tuple[PretrainedPart, ...]:
        return ()

    def prompt(self) -> PromptTemplate | None:
        """What the instruction is put into before it is tokenised; None: it is read alone."""
        return None
