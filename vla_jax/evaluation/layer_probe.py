"""Which layers of a language model act on what they see: Grad-CAM of the actions over visual tokens, and zeroed tokens.

    OUT/summary.json         schema `layer_probe`
    OUT/curves.png           error of the actions by the layer at which visual tokens are zeroed; Grad-CAM by layer
    OUT/grad_cam_N.png       where each layer's Grad-CAM lies, over some steps' pictures

Axes: n steps, b a batch of them, l layers, v visual tokens (row-major), r ratios, h horizon, a action, d width.
Source: DeepVision-VLA section 3.2, with Grad-CAM of Selvaraju et al. 2017: A, the visual tokens that a layer reads; G,
the gradient there of the sum of absolute actions; relu(sum_d mean_v(G) A). Regions of interest are the boxes of the
sidecar where there is one (the paper's are of Grounding DINO); otherwise the cells where the mean Grad-CAM of all
layers is highest. Zeroed is a share r of a step's region, drawn with a fixed seed, in what one layer reads.
Errors are of normalised actions, squared and meaned over the valid targets.

A policy that can be probed has `probe_places` and `act_edited` (`Probed`).
"""

import dataclasses
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.progress
import rich.table

from data_pipelines.episodes import Episodes, EpisodeSteps, open_episodes
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.sidecar import split_cache
from vla_jax.evaluation import probe_plots
from vla_jax.run_directory import RunDirectory, new_folder
from vla_jax.trained_policy import TrainedPolicy
from vla_jax.types import BoxRequirement, InputError, Observation, Parameters

HELD_OUT = ("val", "test")
log = logging.getLogger(__name__)


class Places(Protocol):
    """Where a picture's tokens are among what the language model reads."""

    slot: str
    num_layers: int
    start: int
    rows: int
    columns: int


class Probed(Protocol):
    """What a policy must offer."""

    @property
    def probe_places(self) -> Places: ...

    def act_edited(self, observation: Observation, edit: Any) -> jax.Array:
        """`act`, where `edit(x, number)` takes the place of what each layer of the language model reads."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerProbeConfig:
    num_steps: int = 64
    """Evenly spread over the split's."""
    batch_size: int = 16
    ratios: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Shares of a region that are zeroed."""
    region_share: float = 0.25
    """Of the picture; where the region is Grad-CAM's own."""
    num_pictures: int = 3
    seed: int = 0

    def __post_init__(self):
        if self.num_steps < 1 or self.batch_size < 1:
            raise InputError(f"layer probe: steps={self.num_steps}, batch size={self.batch_size}: 1 or more expected")
        if not self.ratios or not all(0 < ratio <= 1 for ratio in self.ratios) or not 0 < self.region_share <= 1:
            raise InputError(
                f"layer probe: ratios={self.ratios}, region_share={self.region_share}: shares above 0, up to 1 expected"
            )


@dataclasses.dataclass
class Findings:
    """By step; concatenated over batches."""

    cam: np.ndarray
    """[n, l, v], each layer's summing to one (0 where nothing is positive)."""
    region: np.ndarray
    """bool [n, v]."""
    error: np.ndarray
    """[n]"""
    zeroed_error: np.ndarray
    """[n, l, r]"""
    change: np.ndarray
    """[n, l, r]: mean absolute change of the actions."""
    pictures: np.ndarray
    """uint8 [n, y, x, 3]"""
    ids: np.ndarray
    """[n, 2]: episode, step."""


def evaluate(
    policy: TrainedPolicy, dataset: Path, out: Path, config: LayerProbeConfig, *, split: str | None = None
) -> dict[str, Any]:
    """Writes `out`, whole or not at all, prints a table, and returns the summary. The run is only read."""
    probe = Probe(policy)
    splits = read_directory(dataset).splits
    split = split or next((name for name in HELD_OUT if name in splits), "train")
    with new_folder(out) as folder, tempfile.TemporaryDirectory(prefix="vla_jax_") as scratch:
        episodes, has_boxes = _open(policy, dataset, split, probe.places.slot, Path(scratch), config.batch_size)
        name = episodes.source.name
        chosen = _spread(episodes, config.num_steps)
        total = -(-min(config.num_steps, episodes.num_steps) // config.batch_size)
        console = rich.console.Console(stderr=True)
        batches = rich.progress.track(_joined(chosen, config.batch_size), "batches", total, console=console)
        found = _concatenated([probe.batch(batch, name, config, has_boxes=has_boxes) for batch in batches])
        summary = _summary(policy, probe.places, config, found) | {
            "dataset": name,
            "split": split,
            "region": "boxes" if has_boxes else "grad_cam",
        }
        (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        probe_plots.plot_curves(folder / "curves.png", summary)
        shown = np.linspace(0, len(found.ids) - 1, min(config.num_pictures, len(found.ids))).round().astype(int)
        for number, index in enumerate(shown):
            title = f"{name} / {split}: episode {found.ids[index, 0]}, step {found.ids[index, 1]}"
            grid = (probe.places.rows, probe.places.columns)
            maps = [array.reshape(-1, *grid) for array in (found.cam[index], found.region[index])]
            probe_plots.plot_cams(folder / f"grad_cam_{number}.png", found.pictures[index], *maps, title=title)
    _print(summary, out)
    return summary


class Probe:
    """The compiled functions of one policy."""

    def __init__(self, policy: TrainedPolicy):
        self.policy = policy
        shapes: Any = policy.structure.shapes()
        model: Any = policy.structure.merge(shapes)
        if not hasattr(model, "act_edited"):
            raise InputError(
                f"{policy.path}: a {type(model).__name__} cannot be probed by layer; policies on Qwen3-VL can "
                "(qwenvla_oft, deepvision_vla)"
            )
        self.places: Places = model.probe_places
        self._explained = jax.jit(self._explain)
        self._zeroed = jax.jit(self._zero)

    @property
    def span(self) -> slice:
        return slice(self.places.start, self.places.start + self.places.rows * self.places.columns)

    def batch(self, steps: EpisodeSteps, dataset: str, config: LayerProbeConfig, *, has_boxes: bool) -> Findings:
        parameters, observation, places = self.policy.stored.parameters, steps.observation, self.places
        actions, cam = jax.device_get(self._explained(parameters, observation))
        cam = np.maximum(cam, 0).swapaxes(0, 1)
        cam = cam / np.maximum(cam.sum(-1, keepdims=True), np.finfo(np.float32).tiny)
        region = _boxed(observation, places) if has_boxes else _highest(cam.mean(axis=1), config.region_share)
        recorded = self.policy.normalizer("action", dataset)(steps.action)
        error = _mean_over_targets((actions - recorded) ** 2, steps.action_mask)
        shape = (len(actions), places.num_layers, len(config.ratios))
        zeroed_error, change = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        order = np.random.default_rng(config.seed).permutation(region.shape[1])
        for r, ratio in enumerate(config.ratios):
            keep = ~_share_of(region, order, ratio)
            for layer in range(places.num_layers):
                edited = np.asarray(self._zeroed(parameters, observation, np.int32(layer), keep))
                zeroed_error[:, layer, r] = _mean_over_targets((edited - recorded) ** 2, steps.action_mask)
                change[:, layer, r] = np.abs(edited - actions).mean(axis=(1, 2))
        pictures = np.asarray(observation.images[places.slot][:, -1])
        return Findings(cam, region, error, zeroed_error, change, pictures, steps.ids)

    def _explain(self, parameters: Parameters, observation: Observation) -> tuple[jax.Array, jax.Array]:
        """Actions [b, h, a], and Grad-CAM [l, b, v] before the relu."""
        model: Any = self.policy.structure.merge(parameters)
        count = self.places.rows * self.places.columns
        nothing = jnp.zeros((self.places.num_layers, len(observation.timestep_mask), count))

        def total(cams: jax.Array) -> tuple[jax.Array, jax.Array]:
            def edit(x: jax.Array, number: jax.Array) -> jax.Array:
                return x.at[:, self.span].set(_explained_by(x[:, self.span], cams[number]))

            actions = model.act_edited(observation, edit)
            return jnp.abs(actions).sum(), actions

        cams, actions = jax.grad(total, has_aux=True)(nothing)
        return actions, cams

    def _zero(self, parameters: Parameters, observation: Observation, layer: jax.Array, keep: jax.Array) -> jax.Array:
        """Actions where one layer reads zeros in place of the visual tokens that are not kept, bool [b, v]."""
        model: Any = self.policy.structure.merge(parameters)

        def edit(x: jax.Array, number: jax.Array) -> jax.Array:
            kept = jnp.where((number != layer) | keep[..., None], x[:, self.span], 0)
            return x.at[:, self.span].set(kept)

        return model.act_edited(observation, edit)


@jax.custom_vjp
def _explained_by(tokens: jax.Array, cam: jax.Array) -> jax.Array:
    """The tokens [b, v, d]; what comes back as the gradient of `cam` [b, v] is their Grad-CAM."""
    return tokens


def _explained_forward(tokens: jax.Array, cam: jax.Array) -> tuple[jax.Array, jax.Array]:
    return tokens, tokens


def _explained_backward(tokens: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    weights = gradient.mean(axis=1, keepdims=True)
    return gradient, jnp.sum(weights * tokens, axis=-1, dtype=jnp.float32)


_explained_by.defvjp(_explained_forward, _explained_backward)


def _open(
    policy: TrainedPolicy, dataset: Path, split: str, slot: str, scratch: Path, batch_size: int
) -> tuple[Episodes, bool]:
    """The split's episodes, and whether they have boxes: those lie in the run's own cache."""
    requirements = policy.config.policy.data_requirements()
    caches = [Path(policy.config.data.cache)] if policy.config.data.cache else []
    caches.append(RunDirectory(policy.path).data)
    boxed = next(
        (c for c in caches if (split_cache(read_directory(dataset), split, c) / f"boxes-{slot}").is_dir()), None
    )
    if boxed is not None and requirements.boxes is None:
        requirements = dataclasses.replace(requirements, boxes=BoxRequirement(slot=slot))
    episodes = open_episodes(
        dataset,
        dataclasses.replace(policy.config.data, cache=str(boxed or scratch), split=split),
        requirements,
        policy.tokenizer,
        statistics=policy.statistics,
        batch_size=batch_size,
    )
    return episodes, boxed is not None


def _spread(episodes: Episodes, num_steps: int) -> Iterator[tuple]:
    """Batches of the wanted steps alone; every step's picture is read on the way."""
    stride, seen = max(1, episodes.num_steps // num_steps), 0
    left = num_steps
    for steps in episodes.batches():
        chosen = np.flatnonzero((seen + np.arange(len(steps.ids))) % stride == 0)[:left]
        seen += len(steps.ids)
        left -= len(chosen)
        if len(chosen):
            yield jax.tree.map(lambda array, chosen=chosen: np.asarray(array)[chosen], _tree(steps))
        if left == 0:
            return


def _joined(parts: Iterable[tuple], size: int) -> Iterator[EpisodeSteps]:
    """In batches of `size`; the last may be smaller."""
    held: Any = None
    for part in parts:
        held = part if held is None else jax.tree.map(lambda *arrays: np.concatenate(arrays), held, part)
        while len(held[3]) >= size:
            yield EpisodeSteps(*jax.tree.map(lambda array: array[:size], held))
            held = jax.tree.map(lambda array: array[size:], held)
    if held is None:
        raise InputError("no readable step in this split: there is nothing to probe")
    if len(held[3]):
        yield EpisodeSteps(*held)


def _tree(steps: EpisodeSteps) -> tuple:
    return steps.observation, steps.action, steps.action_mask, steps.ids


def _boxed(observation: Observation, places: Places) -> np.ndarray:
    """bool [b, v]: cells whose centre lies in a box."""
    assert observation.boxes is not None
    assert observation.box_masks is not None
    boxes, mask = np.asarray(observation.boxes)[:, -1, :, None], np.asarray(observation.box_masks)[:, -1]
    row, column = np.divmod(np.arange(places.rows * places.columns), places.columns)
    y, x = (row + 0.5) / places.rows, (column + 0.5) / places.columns
    inside = (x >= boxes[..., 0]) & (x < boxes[..., 2]) & (y >= boxes[..., 1]) & (y < boxes[..., 3])
    return (inside & mask[..., None]).any(axis=1)


def _highest(cam: np.ndarray, share: float) -> np.ndarray:
    """bool [b, v]: that share of the cells where it is highest."""
    count = max(1, round(share * cam.shape[1]))
    chosen = np.zeros(cam.shape, bool)
    np.put_along_axis(chosen, np.argsort(-cam, axis=1, kind="stable")[:, :count], True, axis=1)
    return chosen


def _share_of(region: np.ndarray, order: np.ndarray, ratio: float) -> np.ndarray:
    """bool [b, v]: that share of each region, its first cells in `order`; a larger share has a smaller one in it."""
    rank = np.cumsum(region[:, order], axis=1)
    chosen = region[:, order] & (rank <= np.ceil(ratio * region.sum(axis=1, keepdims=True)))
    back = np.zeros_like(region)
    back[:, order] = chosen
    return back


def _mean_over_targets(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[b]; NaN where a step has no target."""
    count = mask.sum(axis=(1, 2))
    return np.where(count > 0, np.where(mask, values, 0).sum(axis=(1, 2)) / np.maximum(count, 1), np.nan)


def _concatenated(parts: list[Findings]) -> Findings:
    fields = [field.name for field in dataclasses.fields(Findings)]
    return Findings(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))


def _summary(policy: TrainedPolicy, places: Places, config: LayerProbeConfig, found: Findings) -> dict[str, Any]:
    inside = (found.cam * found.region[:, None]).sum(axis=-1)
    if not np.isfinite(found.change).all() or np.isnan(found.error).all():
        raise InputError(
            f"{policy.stored.folder}: actions are not finite, or no step has a target; nothing was written"
        )
    return {
        "checkpoint": str(policy.path),
        "step": policy.stored.step or 0,
        "weights": policy.stored.weights,
        "steps": len(found.ids),
        "slot": places.slot,
        "grid": [places.rows, places.columns],
        "num_layers": places.num_layers,
        "ratios": list(config.ratios),
        "region_share": float(found.region.mean()),
        "error": float(np.nanmean(found.error)),
        "zeroed_error": np.nanmean(found.zeroed_error, axis=0).tolist(),
        "change": found.change.mean(axis=0).tolist(),
        "grad_cam_in_region": inside.mean(axis=0).tolist(),
    }


def _print(summary: dict[str, Any], out: Path) -> None:
    title = f"{summary['dataset']} / {summary['split']}: squared error {summary['error']:.4f} with nothing zeroed"
    ratios = [f"{ratio:.0%} zeroed" for ratio in summary["ratios"]]
    table = rich.table.Table("layer", *ratios, "Grad-CAM in the region", title=title)
    for layer, errors in enumerate(summary["zeroed_error"]):
        inside = summary["grad_cam_in_region"][layer]
        table.add_row(str(layer), *(f"{error:.4f}" for error in errors), f"{inside:.0%}")
    console = rich.console.Console()
    console.print(table)
    region = "boxes of the sidecar" if summary["region"] == "boxes" else "where Grad-CAM is highest"
    console.print(f"region: {region}, {summary['region_share']:.0%} of the picture; written to {out}")
