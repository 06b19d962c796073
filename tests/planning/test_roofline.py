"""Bounds by hand, on a v5e pod: rings of 16, links of 45 GB/s in each direction."""

import numpy as np
import pytest

from vla_jax.planning.collectives import GATHER_BY_SUM, Collective
from vla_jax.planning.roofline import collective_seconds, roofline
from vla_jax.planning.topologies import CHIPS, topology
from vla_jax.types import InputError

POD = topology("v5e:16x16")
LINK = 45e9
GB = 10**9


def places(pod):
    """Of chips numbered along the last axis first."""
    axes = np.indices((pod.num_slices, *pod.sizes)).reshape(1 + len(pod.sizes), -1)
    return axes.T


def seconds(kind, groups, pod=POD, size=GB):
    one = Collective("x", kind, size, 1, np.asarray(groups), "l", "p", "bf16")
    return collective_seconds(one, pod, places(pod))


ROW = np.arange(256).reshape(16, 16)
ALL = np.arange(256)[None]


@pytest.mark.parametrize(
    ("kind", "groups", "expected"),
    [
        ("all-gather", ROW, 15 / 16 / (2 * LINK)),
        ("reduce-scatter", ROW.T, 15 / 16 / (2 * LINK)),
        ("all-reduce", ROW, 2 * 15 / 16 / (2 * LINK)),
        (GATHER_BY_SUM, ROW, 2 * 15 / 16 / (2 * LINK)),
        ("all-gather", ALL, 255 / 256 / (4 * LINK)),  # both axes
        ("all-gather", ROW.reshape(32, 8), 7 / 8 / LINK),  # half a ring is a line
        ("all-to-all", ROW, 15 / 16 * 16 / 8 / LINK),
        ("all-reduce", np.arange(256)[:, None], 0.0),  # groups of one
        ("collective-permute", [[0, 1], [1, 2]], 1 / LINK),
        ("collective-permute", [[0, 0]], 0.0),
    ],
)
def test_a_collective_takes_its_bytes_over_the_links_it_can_use(kind, groups, expected):
    assert seconds(kind, groups) == pytest.approx(expected * GB)


def test_a_smaller_pod_has_no_rings():
    assert seconds("all-gather", np.arange(16)[None], topology("v5e:4x4")) == pytest.approx(15 / 16 * GB / (2 * LINK))


def test_between_slices_each_chip_exchanges_its_part_over_the_network():
    pod = topology("2*v5e:16x16")
    pairs = np.arange(512).reshape(2, 256).T
    network = CHIPS["v5e"].dcn_bandwidth
    assert seconds("all-reduce", pairs, pod) == pytest.approx(2 * GB / 2 / network)
    everyone = np.arange(512)[None]
    inside = 2 * 255 / 256 * GB / (4 * LINK)
    assert seconds("all-reduce", everyone, pod) == pytest.approx(inside + 2 * GB / 256 / 2 / network)
    assert seconds("collective-permute", [[0, 256]], pod) == pytest.approx(GB / network)


def test_the_slowest_part_binds_and_overlap_decides_between_two_bounds():
    bounds = roofline(CHIPS["v5e"], flops=197e12 / 2, hbm_bytes=819e9 / 4, interconnect=0.3)
    assert (bounds.compute, bounds.memory, bounds.interconnect) == (0.5, 0.25, 0.3)
    assert bounds.binding == "compute"
    assert bounds.seconds == (0.5, pytest.approx(1.05))
    assert roofline(CHIPS["v6e"], flops=918e12 / 8, hbm_bytes=0, interconnect=0.3).binding == "interconnect"


@pytest.mark.parametrize(
    ("text", "chips", "rings"),
    [
        ("v5e:16x16", 256, (True, True)),
        ("v5e:8x16", 128, (False, True)),
        ("v6e:4x8", 32, (False, False)),
        ("v5p:4x8x8", 256, (True, True, True)),
        ("v5p:2x2x4", 16, (False, False, False)),
        ("4*v6e:16x16", 1024, (True, True)),
    ],
)
def test_a_pod_is_written_as_its_axes(text, chips, rings):
    pod = topology(text)
    assert (str(pod), pod.num_chips, pod.rings) == (text, chips, rings)


@pytest.mark.parametrize(
    "text", ["v5e", "v5e:16", "v5p:16x16", "v4:2x2x2", "v5e:0x4", "0*v5e:4x4", "v5e:4x4x", "h100:8"]
)
def test_what_is_no_pod_is_refused(text):
    with pytest.raises(InputError, match="--topology"):
        topology(text)
