"""TPU slices that can be rented, by the names that Google Cloud has for them.

Source: cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus and cloud.google.com/tpu/docs/{v5e,v5p,v6e,runtimes}.
"""

import dataclasses
import math
import re

from vla_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    gke: str
    """Value of the node label cloud.google.com/gke-tpu-accelerator."""
    machine: str
    """Of a node, without its number of chips."""
    accelerator_type: str
    """Before the number: `v5litepod-256`."""
    cores_a_chip: int
    """As accelerator types count: v5p's number is of cores."""
    runtime: str
    """Of a TPU VM."""
    topologies: tuple[str, ...]
    """Of v5p the small ones."""


_OF_TWO_AXES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
GENERATIONS = {
    "v5e": Generation(
        gke="tpu-v5-lite-podslice",
        machine="ct5lp-hightpu",
        accelerator_type="v5litepod",
        cores_a_chip=1,
        runtime="v2-alpha-tpuv5-lite",
        topologies=_OF_TWO_AXES,
    ),
    "v5p": Generation(
        gke="tpu-v5p-slice",
        machine="ct5p-hightpu",
        accelerator_type="v5p",
        cores_a_chip=2,
        runtime="v2-alpha-tpuv5",
        topologies=("2x2x1", "2x2x2", "2x2x4", "2x4x4"),
    ),
    "v6e": Generation(
        gke="tpu-v6e-slice",
        machine="ct6e-standard",
        accelerator_type="v6e",
        cores_a_chip=1,
        runtime="v2-alpha-tpuv6e",
        topologies=_OF_TWO_AXES,
    ),
}
_V5P_MOST_CHIPS = 6144


@dataclasses.dataclass(frozen=True)
class Slice:
    """`--topology v5e:16x16`."""

    generation: Generation
    topology: str

    @classmethod
    def parse(cls, text: str) -> "Slice":
        name, _, topology = text.partition(":")
        if name not in GENERATIONS:
            raise InputError(f"--topology {text}: no accelerator {name!r}; there are {', '.join(GENERATIONS)}")
        generation = GENERATIONS[name]
        if topology not in generation.topologies and not (name == "v5p" and _is_large_v5p(topology)):
            further = " and AxBxC of rising multiples of 4, up to 6144 chips" if name == "v5p" else ""
            has = ", ".join(generation.topologies) + further
            raise InputError(f"--topology {text}: {name} has no slice {topology!r}; it has {has}")
        return cls(generation, topology)

    def check_count(self, slices: int) -> None:
        if slices > 1 and self.hosts == 1:
            raise InputError(f"--slices {slices}: slices of one host, as {self.topology} is, cannot be joined")

    @property
    def chips(self) -> int:
        return math.prod(map(int, self.topology.split("x")))

    @property
    def chips_a_host(self) -> int:
        """2x4 is one host of 8."""
        return self.chips if self.topology in ("1x1", "2x2", "2x4") else 4

    @property
    def hosts(self) -> int:
        return self.chips // self.chips_a_host

    @property
    def accelerator_type(self) -> str:
        return f"{self.generation.accelerator_type}-{self.chips * self.generation.cores_a_chip}"

    @property
    def machine_type(self) -> str:
        return f"{self.generation.machine}-{self.chips_a_host}t"


def _is_large_v5p(topology: str) -> bool:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", topology):
        return False
    sizes = [int(size) for size in topology.split("x")]
    return not any(size % 4 for size in sizes) and sizes == sorted(sizes) and math.prod(sizes) <= _V5P_MOST_CHIPS
