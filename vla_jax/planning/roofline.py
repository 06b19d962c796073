"""What a pod's peaks allow at best: bounds, no forecast. Kernels reach less, and latency of messages is not in it.

Time of a collective: bytes over the links that it can use. A group spans one or more axes of the torus; of a whole
ring a chip uses both links, of a part of an axis one. A ring of n chips gathers (or reduces and scatters) an array of v
bytes in v (n - 1) / n over that bandwidth, and reduces it for all in twice that; all chips exchange all through the
narrowest cut of the torus. Between slices of a pod each chip has its share of the host's network.

Source: "How to Scale Your Model", chapters 2 and 3 (jax-ml.github.io/scaling-book).

Axes: g groups, n chips of a group, c coordinates (slice, then the axes of the torus).
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Int

from vla_jax.planning.collectives import GATHER_BY_SUM, Collective
from vla_jax.planning.topologies import Chip, Topology


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a step that each part takes at the least."""

    compute: float
    memory: float
    interconnect: float

    @property
    def binding(self) -> str:
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]

    @property
    def seconds(self) -> tuple[float, float]:
        """Of a step: with all three at the same time, and one after the other."""
        parts = dataclasses.astuple(self)
        return max(parts), sum(parts)


def roofline(chip: Chip, *, flops: float, hbm_bytes: float, interconnect: float) -> Roofline:
    """Args: interconnect: seconds."""
    return Roofline(flops / chip.flops, hbm_bytes / chip.hbm_bandwidth, interconnect)


def coordinates(devices: Sequence[jax.Device], num_axes: int) -> Int[np.ndarray, "n c"]:
    return np.array([(getattr(d, "slice_index", 0) or 0, *d.coords[:num_axes]) for d in devices])


def collective_seconds(collective: Collective, topology: Topology, places: Int[np.ndarray, "n c"]) -> float:
    """Of one run, of the slowest group. Args: places: of all chips of the mesh, in its order."""
    if collective.kind == "collective-permute":
        return _permute_seconds(collective, topology, places)
    kinds = {_span(places[group], topology) for group in collective.groups}
    return max(_group_seconds(collective, topology.chip, span) for span in kinds)


@dataclasses.dataclass(frozen=True)
class Span:
    """Where the chips of a group lie."""

    slices: int
    chips: int
    """In each slice."""
    bandwidth: float
    """Of a chip's links along the axes that the group spans."""
    exchange: float
    """Bytes a second that each chip can send to random others of its slice."""


def _span(places: Int[np.ndarray, "n c"], topology: Topology) -> Span:
    slices = len(np.unique(places[:, 0]))
    bandwidth, exchange = 0.0, np.inf
    for axis, size in enumerate(topology.sizes):
        held = len(np.unique(places[:, 1 + axis]))
        if held > 1:
            is_ring = topology.rings[axis] and held == size
            links = topology.chip.link_bandwidth * (2 if is_ring else 1)
            bandwidth += links
            # Half of all that is sent crosses the middle, half of that in either direction, over one or two links.
            exchange = min(exchange, 4 * links / held)
    return Span(slices, len(places) // slices, bandwidth, exchange)


def _group_seconds(collective: Collective, chip: Chip, span: Span) -> float:
    inside = (span.chips - 1) / span.chips
    between = (span.slices - 1) / span.slices
    if collective.kind == "all-to-all":
        seconds = collective.bytes * inside / span.exchange if inside else 0.0
        return seconds + collective.bytes * between / chip.dcn_bandwidth
    passes = 2 if collective.kind in ("all-reduce", GATHER_BY_SUM) else 1
    seconds = passes * collective.bytes * inside / span.bandwidth if inside else 0.0
    # Each chip exchanges its own part of the array with its like in the other slices.
    return seconds + passes * collective.bytes / span.chips * between / chip.dcn_bandwidth


def _permute_seconds(collective: Collective, topology: Topology, places: Int[np.ndarray, "n c"]) -> float:
    """As if every chip sent to a neighbour."""
    source, target = places[collective.groups[:, 0]], places[collective.groups[:, 1]]
    if np.any(source[:, 0] != target[:, 0]):
        return collective.bytes / topology.chip.dcn_bandwidth
    return collective.bytes / topology.chip.link_bandwidth if np.any(source != target) else 0.0
