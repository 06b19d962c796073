"""The last layers of Qwen3-VL share their attention with layers of a vision expert (VL-MoT), pruned by what the action
tokens look at (AGVP).

Axes: b batch, n tokens of the language model, e tokens of the expert (class and registers first), k kept ones, d width.
Source: DeepVision-VLA section 3.3 and the ablations of section 4 (`expert_layers`, `guidance`, `reference_layers`;
`TowerCoupling`: the model's own tower in the expert's place). The equations are in `fusion/shared_attention.py` and
`fusion/pruning.py`.

Not stated there and resolved here: layers are coupled in order, each of the last n of the language model with one of
the expert; tokens are pruned once, where the coupling begins (`prune_mode="kv_only"`: the expert runs on all of them
and only what is shared is pruned); class and register tokens are not shared; aligned keys lie at the patches' places on
the picture's own grid of positions.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vla_jax.encoders.qwen3_vl import PictureTokens
from vla_jax.encoders.vit import Vit, VitConfig
from vla_jax.fusion import pruning
from vla_jax.fusion.pruning import PruningConfig, Rows
from vla_jax.fusion.shared_attention import Branch, Shared, SharedAttentionConfig, shared_mask
from vla_jax.language.picture_positions import finer_positions
from vla_jax.nn.rotary import Rotation
from vla_jax.nn.stack import NO_TAPS, Edit, Taps
from vla_jax.types import InputError
from vla_jax.vlms.action_sequence import ActionSequence
from vla_jax.vlms.qwen3_vl import Qwen3Vl, Qwen3VlConfig
from vla_jax.vlms.vision_expert import Integration, IntegrationConfig, Reading, Scene, merged_grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepCouplingConfig(IntegrationConfig):
    num_layers: int = 16
    """Of the language model, its last ones."""
    expert_layers: Literal["last", "first", "uniform"] = "last"
    """Which of the expert's they are coupled with; `uniform`: every second of twice as many, and so on."""
    prune_mode: Literal["tokens", "kv_only"] = "tokens"
    guidance: Literal["action", "text", "cls"] = "action"
    """Whose attention says which tokens are kept: of the action tokens or the words in the language model's reference
    layers, or of the expert's class token in its last layer before the coupling."""
    reference_layers: tuple[int, ...] = tuple(range(4, 20))
    """Counted from 0."""
    pruning: PruningConfig = PruningConfig()
    attention: SharedAttentionConfig = SharedAttentionConfig()
    positions: Literal["grid", "none", "sequence"] = "grid"
    """Of aligned keys: on the picture's grid; not rotated; counted along the patches."""
    inject_prefix: bool = False
    """True: class and register tokens are shared, too."""
    readers: Literal["all", "visual_and_action"] = "all"
    """Rows of the language model that see the expert."""

    def check(self, model: Qwen3VlConfig, expert: VitConfig | None) -> None:
        if expert is None:
            raise InputError("policy.expert is None, which the coupling needs; TowerCouplingConfig does without")
        self._check_language(model)
        start, stride = self.span(expert)
        if start < 0 or start + stride * self.num_layers > expert.num_layers:
            raise InputError(
                f"policy.integration.num_layers={self.num_layers}: the expert has {expert.num_layers} layers"
            )
        if self.guidance == "cls" and (start == 0 or not expert.class_token):
            raise InputError(
                "policy.integration.guidance='cls': the class token's attention is read before the first coupled layer "
                "of the expert, and there is none; take expert_layers='last' and an expert with a class token"
            )

    def _check_language(self, model: Qwen3VlConfig) -> None:
        assert model.language is not None
        assert model.vision is not None
        start = model.language.decoder.num_layers - self.num_layers
        if self.num_layers < 1 or start < len(model.vision.deepstack):
            raise InputError(
                f"policy.integration.num_layers={self.num_layers}: of {model.language.decoder.num_layers} layers of "
                f"the language model, the first {len(model.vision.deepstack)} read DeepStack and cannot be coupled"
            )
        if not self.reference_layers or not all(0 <= layer < start for layer in self.reference_layers):
            raise InputError(
                f"policy.integration.reference_layers={self.reference_layers}: layers before the first coupled one, "
                f"0 to {start - 1}, expected"
            )

    def span(self, expert: VitConfig) -> tuple[int, int]:
        """First coupled layer of the expert, and how many make one step."""
        if self.expert_layers == "last":
            return expert.num_layers - self.num_layers, 1
        return 0, 1 if self.expert_layers == "first" else max(1, expert.num_layers // self.num_layers)

    def tiny(self) -> "DeepCouplingConfig":
        """Two of five layers, after two, or one, that guide."""
        last = 1 if self.reference_layers[-1] < 10 else 2
        reference = (last,) if len(self.reference_layers) == 1 else (1, 2)
        num_layers = 1 if self.expert_layers == "uniform" and self.has_expert else 2
        return dataclasses.replace(self, num_layers=num_layers, reference_layers=reference)

    def build(self, model: Qwen3VlConfig, expert: VitConfig | None, rngs: nnx.Rngs) -> "DeepCoupling":
        return DeepCoupling(self, model, expert, rngs=rngs)


class DeepCoupling(Integration):
    def __init__(self, config: DeepCouplingConfig, model: Qwen3VlConfig, expert: VitConfig | None, *, rngs: nnx.Rngs):
        self.config = config
        source = self._source(model, expert)
        assert model.language is not None
        decoder = model.language.decoder.block().attention
        self.shared = config.attention.build(decoder, source.block.attention, config.num_layers, rngs)

    def _source(self, model: Qwen3VlConfig, expert: VitConfig | None) -> VitConfig:
        """Whose layers are read."""
        assert expert is not None
        return expert

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
        config, prefix = self.config, expert.config.prefix_length
        grid = expert.grid(scene.images)
        lower, scores = self._lower(model, sequence, picture, grid, edit)
        start, stride = config.span(expert.config)
        rotation = expert.rotation(*grid)
        taps = NO_TAPS
        if config.guidance == "cls":
            rows = Rows(0, 1, (prefix, prefix + grid[0] * grid[1]))
            taps = Taps(projections=(start - 1,), kept=pruning.look(config.pruning, rows, None))
        early = expert.stack.run(expert.embed(scene.images), taps, rotation=rotation, span=(0, start))
        if scores is None:
            assert early.projections is not None
            scores = pruning.mean_over_rows(early.projections)
        places = pruning.choose(config.pruning, scores)
        tokens, angles = early.tokens, self._angles(model, sequence, picture, grid, prefix)
        select = functools.partial(_shared_of_all, prefix, config.inject_prefix, places)
        if config.prune_mode == "tokens":
            kept = functools.partial(_kept, prefix, places)
            tokens, rotation, angles = kept(tokens), _each(kept, rotation), _each(kept, angles)
            select = functools.partial(_shared_of_kept, 0 if config.inject_prefix else prefix)
        x, _ = self.shared(
            self._decoder(model, sequence, lower, edit),
            Branch(expert.stack, start, tokens, rotation, stride=stride),
            Shared(select, angles, self._mask(sequence, scene.is_there, len(select(tokens)[0]))),
        )
        return Reading(model.text.final_norm(x), guidance=scores)

    def _lower(
        self,
        model: Qwen3Vl,
        sequence: ActionSequence,
        picture: PictureTokens,
        grid: tuple[int, int],
        edit: Edit | None,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b e"] | None]:
        """The language model before the coupling, and what its guiding rows say of the patches of `grid`."""
        config, taps = self.config, Taps(edit=edit)
        length = sequence.inputs.valid.shape[1]
        rows = {"action": (length - sequence.num_actions, length), "text": sequence.words}.get(config.guidance)
        if rows is not None:
            look = pruning.look(config.pruning, Rows(*rows, sequence.pictures[0]), sequence.mask.dense())
            taps = taps._replace(projections=config.reference_layers, kept=look)
        lower = model.hidden(sequence.inputs, mask=sequence.mask, taps=taps, span=(0, self._start(model)))
        if rows is None:
            return lower.tokens, None
        assert lower.projections is not None
        row_mask = sequence.inputs.valid[:, rows[0] : rows[1]]
        scores = pruning.mean_over_rows(lower.projections, row_mask)
        return lower.tokens, pruning.enlarge(config.pruning, scores, merged_grid(picture), grid)

    def _start(self, model: Qwen3Vl) -> int:
        return model.text.config.num_layers - self.config.num_layers

    def _decoder(self, model: Qwen3Vl, sequence: ActionSequence, x: Array, edit: Edit | None) -> Branch:
        rotation = model.text.rotation(sequence.inputs.positions)
        return Branch(model.text.stack, self._start(model), x, rotation, mask=sequence.mask.dense(), edit=edit)

    def _angles(
        self, model: Qwen3Vl, sequence: ActionSequence, picture: PictureTokens, grid: tuple[int, int], prefix: int
    ) -> Rotation | None:
        """Of the expert's tokens in the language model's heads; class and registers stand where the picture begins."""
        if self.config.positions == "none":
            return None
        first = sequence.inputs.positions[:, :, sequence.pictures[0][0]]
        if self.config.positions == "grid":
            patches = finer_positions(first, merged_grid(picture), grid)
        else:
            patches = (first[..., None] + jnp.arange(grid[0] * grid[1])).astype(jnp.float32)
        still = jnp.broadcast_to(first[..., None].astype(jnp.float32), (*first.shape, prefix))
        return model.text.rotation(jnp.concatenate([still, patches], axis=-1))

    def _mask(self, sequence: ActionSequence, is_there: Bool[Array, "b"], count: int) -> Bool[Array, "b n k"]:
        batch, length = sequence.inputs.valid.shape
        readers = None
        if self.config.readers == "visual_and_action":
            places = jnp.arange(length)
            reads = places >= length - sequence.num_actions
            for start, stop in sequence.pictures:
                reads = reads | ((places >= start) & (places < stop))
            readers = jnp.broadcast_to(reads, (batch, length))
        shared = jnp.broadcast_to(is_there[:, None], (batch, count))
        return shared_mask(shared, sequence.mask.dense(), readers)[:, count:, :count]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerCouplingConfig(DeepCouplingConfig):
    """As the deep coupling, of layers of the model's own tower, evenly spread, and of the pictures that it has seen."""

    has_expert: ClassVar[bool] = False
    expert_layers: Literal["last", "first", "uniform"] = "uniform"
    prune_mode: Literal["tokens", "kv_only"] = "kv_only"

    def check(self, model: Qwen3VlConfig, expert: VitConfig | None) -> None:
        assert model.vision is not None
        self._check_language(model)
        wanted = {"expert_layers": "uniform", "prune_mode": "kv_only", "inject_prefix": False}
        for key, value in wanted.items():
            if getattr(self, key) != value:
                raise InputError(f"policy.integration.{key}={getattr(self, key)!r}: {value!r} expected of a tower")
        if self.guidance == "cls" or self.attention.expert_attention != "native":
            raise InputError("policy.integration: a tower has no class token, and keeps its own attention")
        if self.num_layers >= model.vision.vit.num_layers:
            raise InputError(
                f"policy.integration.num_layers={self.num_layers}: less than the tower's {model.vision.vit.num_layers} "
                "expected"
            )

    def layers(self, depth: int) -> tuple[int, ...]:
        """Of the tower, each the last of as even a share of it as there is."""
        return tuple(-(-(i + 1) * depth // self.num_layers) - 1 for i in range(self.num_layers))

    def build(self, model: Qwen3VlConfig, expert: VitConfig | None, rngs: nnx.Rngs) -> "TowerCoupling":
        return TowerCoupling(self, model, expert, rngs=rngs)


class TowerCoupling(DeepCoupling):
    config: TowerCouplingConfig

    def _source(self, model: Qwen3VlConfig, expert: VitConfig | None) -> VitConfig:
        assert model.vision is not None
        self.layers = self.config.layers(model.vision.vit.num_layers)
        return model.vision.vit

    def vision_taps(self) -> Taps:
        """What the chosen layers read: the outputs of those before them."""
        return Taps(layers=[layer - 1 for layer in self.layers])

    def read(
        self,
        model: Qwen3Vl,
        expert: Vit | None,
        sequence: ActionSequence,
        picture: PictureTokens,
        scene: Scene | None,
        edit: Edit | None = None,
    ) -> Reading:
        assert model.vision is not None
        patches = picture.patches
        grid = (patches.rows, patches.columns)
        lower, scores = self._lower(model, sequence, picture, grid, edit)
        assert scores is not None
        assert patches.layers is not None
        places = pruning.choose(self.config.pruning, scores)
        kept = jax.vmap(lambda layer: pruning.take(layer, places))(patches.layers)
        angles = _each(lambda a: pruning.take(a, places), self._angles(model, sequence, picture, grid, 0))
        is_there = sequence.inputs.valid[:, sequence.pictures[0][0]]
        shared = Shared(lambda a: a, angles, self._mask(sequence, is_there, places.shape[1]))
        decoder = self._decoder(model, sequence, lower, edit)
        x = self.shared.read(decoder, kept, model.vision.vit.stack, self.layers, shared)
        return Reading(model.text.final_norm(x), guidance=scores)


def _each(function: Callable[[Array], Array], rotation: Rotation | None) -> Rotation | None:
    return None if rotation is None else Rotation(*map(function, rotation))


def _kept(prefix: int, places: Int[Array, "b k"], x: Array) -> Array:
    """Class, registers and the chosen patches. `x` may lack the batch axis, as rotations of a grid do."""
    if x.ndim == 2:
        x = jnp.broadcast_to(x, (len(places), *x.shape))
    return jnp.concatenate([x[:, :prefix], pruning.take(x[:, prefix:], places)], axis=1)


def _shared_of_kept(start: int, x: Array) -> Array:
    return x[:, start:]


def _shared_of_all(prefix: int, with_prefix: bool, places: Int[Array, "b k"], x: Array) -> Array:
    patches = pruning.take(x[:, prefix:], places)
    return jnp.concatenate([x[:, :prefix], patches], axis=1) if with_prefix else patches
