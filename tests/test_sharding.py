import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from vla_jax.sharding import MESH_AXES, RULES, MeshConfig, check_batch_size, parameter_sharding, process_rows
from vla_jax.types import InputError


@pytest.fixture(scope="module")
def mesh():
    return MeshConfig(data=2, fsdp=2, tensor=2).build()


@pytest.mark.parametrize(
    ("shape", "axes", "spec"),
    [
        ((3, 8, 16), ("layers", "embed", "mlp"), PartitionSpec(None, "fsdp", "tensor")),
        ((8, 7), ("embed", "mlp"), PartitionSpec("fsdp", None)),  # 7 does not divide: replicated
        ((4, 6), ("heads", "mlp"), PartitionSpec("tensor", None)),  # a mesh axis is used once
        ((5,), (None,), PartitionSpec(None)),
    ],
)
def test_logical_axes_become_mesh_axes_where_they_divide(mesh, shape, axes, spec):
    assert parameter_sharding(mesh, shape, axes).spec == spec


def test_an_axis_outside_the_table_is_refused(mesh):
    with pytest.raises(InputError, match="embedd"):
        parameter_sharding(mesh, (4,), ("embedd",))


def test_every_rule_names_a_mesh_axis(mesh):
    assert {axis for axis in RULES.values() if axis} <= set(mesh.axis_names)


def test_one_size_may_be_left_open():
    assert dict(MeshConfig(data=-1, fsdp=4).build().shape) == {"data": 2, "fsdp": 4, "tensor": 1}


@pytest.mark.parametrize("sizes", [{"data": 3}, {"data": -1, "fsdp": 3}, {"data": 1, "fsdp": 2}])
def test_sizes_that_do_not_multiply_to_the_devices_are_refused(sizes):
    with pytest.raises(InputError, match=f"{len(jax.devices())} devices"):
        MeshConfig(**sizes).build()


def test_two_open_sizes_are_refused():
    with pytest.raises(InputError, match="at most one"):
        dataclasses.replace(MeshConfig(), fsdp=-1)


def test_a_batch_that_does_not_divide_is_refused(mesh):
    check_batch_size(mesh, 8)
    with pytest.raises(InputError, match="batch_size=6"):
        check_batch_size(mesh, 6)


@pytest.mark.parametrize(
    ("sizes", "order", "first", "second"),
    [
        ((8, 1, 1), "01234567", (0, 4), (4, 8)),
        ((2, 2, 2), "01234567", (0, 4), (4, 8)),
        ((1, 4, 2), "04152637", (0, 8), (0, 8)),  # every tensor pair spans the processes
        ((1, 1, 8), "01234567", (0, 8), (0, 8)),
        ((8, 1, 1), "45670123", (4, 8), (0, 4)),
        ((8, 1, 1), "01452367", (0, 6), (2, 8)),  # not contiguous: the shortest slice over them
        ((2, 2, 2), "45016723", (2, 8), (0, 6)),
    ],
)
def test_a_process_reads_the_rows_that_its_devices_hold(sizes, order, first, second):
    devices = jax.devices()
    mesh = Mesh(np.array([devices[int(number)] for number in order]).reshape(sizes), MESH_AXES)
    for part, (start, stop) in ((devices[:4], first), (devices[4:], second)):
        assert process_rows(mesh, 8, part) == slice(start, stop)


def test_the_one_process_reads_all_rows(mesh):
    assert process_rows(mesh, 8) == slice(0, 8)
