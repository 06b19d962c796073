"""The one table of TPU chips, and pods of them as the compiler knows them.

Sources: peak, memory and its bandwidth: Google Cloud's pages of each generation (docs.cloud.google.com/tpu/docs/v5e,
v5p, v6e). Links: "How to Scale Your Model", chapter 2 (jax-ml.github.io/scaling-book/tpus, commit 0819a7d): a link of
the torus carries so much in one direction; an axis that is closed to a ring is used in both, an open one in one.
Data-center network: the pages' NICs of a host over its chips (v5e 2 x 100 Gbit/s and v6e 4 x 200 over 8, v5p 200
Gbit/s over 4). How the compiler is asked for a pod (`v5p` by its bare name gives other collectives than the machine's):
MaxText, src/maxtext/utils/accelerator_to_spec_map.py, commit 19142c2.
"""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from vla_jax.types import InputError

LIBTPU = "libtpu==0.0.42.1"
"""The version that jax[tpu]==0.10.2 takes, so that TPU hosts run; text of later ones jaxlib 0.10.2 may not read."""
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",  # no metadata server is asked
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several plans at a time; no TPU is touched
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-256",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    name: str
    compiler_name: str
    compiler_config: str
    num_axes: int
    """Of the torus."""
    ring_size: int
    """An axis is closed to a ring where it has so many chips (of three axes: where all are multiples of it)."""
    flops: float
    """A second, bf16 products summed in float32."""
    hbm_bytes: float
    """That the compiler (libtpu 0.0.42.1) gives a program, by its message to one that is too large: a little less than
    the chip's 16, 96 and 32 GiB.
    """
    hbm_bandwidth: float
    """Bytes a second; so are the others."""
    link_bandwidth: float
    """Of one link in one direction; a chip has two links an axis."""
    dcn_bandwidth: float
    """Of a chip's share of its host's network, between pods."""


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v5e",
            compiler_name="v5e",
            compiler_config="default",
            num_axes=2,
            ring_size=16,
            flops=197e12,
            hbm_bytes=15.75 * 2**30,
            hbm_bandwidth=819e9,
            link_bandwidth=45e9,
            dcn_bandwidth=3.125e9,
        ),
        Chip(
            name="v5p",
            compiler_name="v5",
            compiler_config="megacore",
            num_axes=3,
            ring_size=4,
            flops=459e12,
            hbm_bytes=95.74 * 2**30,
            hbm_bandwidth=2765e9,
            link_bandwidth=90e9,
            dcn_bandwidth=6.25e9,
        ),
        Chip(
            name="v6e",
            compiler_name="v6e",
            compiler_config="default",
            num_axes=2,
            ring_size=16,
            flops=918e12,
            hbm_bytes=31.25 * 2**30,
            hbm_bandwidth=1638e9,
            link_bandwidth=90e9,
            dcn_bandwidth=12.5e9,
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    chip: Chip
    sizes: tuple[int, ...]
    """Chips along each axis of the torus."""
    num_slices: int = 1

    def __str__(self) -> str:
        pod = f"{self.chip.name}:{'x'.join(map(str, self.sizes))}"
        return pod if self.num_slices == 1 else f"{self.num_slices}*{pod}"

    @property
    def num_chips(self) -> int:
        return math.prod(self.sizes) * self.num_slices

    @property
    def rings(self) -> tuple[bool, ...]:
        """Whether each axis is closed."""
        if self.chip.num_axes == 3:
            return (all(size % self.chip.ring_size == 0 for size in self.sizes),) * 3
        return tuple(size == self.chip.ring_size for size in self.sizes)

    def devices(self) -> list[jax.Device]:
        """Of the compiler: they say where they lie, and no program runs on them. InputError: without libtpu."""
        if importlib.util.find_spec("libtpu") is None:
            raise InputError(
                f"--topology {self}: the TPU compiler is not installed. It needs no TPU: pip install {LIBTPU}"
            )
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        try:
            description = topologies.get_topology_desc(
                platform="tpu",
                topology_name=f"{self.chip.compiler_name}:{'x'.join(map(str, self.sizes))}",
                **self._compiler_arguments(),
            )
        except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
            raise InputError(f"--topology {self}: libtpu has no such pod ({_first_line(error)})") from error
        return list(description.devices)

    def _compiler_arguments(self) -> dict[str, Any]:
        padded = (*self.sizes, 1)[:3]
        arguments: dict[str, Any] = {
            "chip_config_name": self.chip.compiler_config,
            "chips_per_host_bounds": tuple(min(most, size) for most, size in zip((2, 2, 1), padded)),
            "wrap": (*self.rings, False)[:3],
        }
        return arguments if self.num_slices == 1 else arguments | {"num_slices": self.num_slices}


def topology(text: str) -> Topology:
    """Args: text: `v5e:16x16`, `v5p:4x8x8`; `2*v5e:16x16` for two slices."""
    found = re.fullmatch(r"(?:(\d+)\*)?(\w+):(\d+(?:x\d+)*)", text)
    if not found or found[2] not in CHIPS:
        raise InputError(
            f"--topology {text}: CHIP:AxB is expected, of {sorted(CHIPS)}, e.g. v5e:16x16, v5p:4x8x8; 2*v5e:16x16 "
            "for two slices"
        )
    chip, sizes = CHIPS[found[2]], tuple(int(size) for size in found[3].split("x"))
    if len(sizes) != chip.num_axes or 0 in sizes or found[1] == "0":
        raise InputError(f"--topology {text}: {chip.name} has {chip.num_axes} axes of at least one chip each")
    return Topology(chip, sizes, int(found[1] or 1))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
