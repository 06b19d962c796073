import dataclasses

import jax
import pytest
from jax.sharding import PartitionSpec

from vla_jax.sharding import RULES, MeshConfig, check_batch_size, parameter_sharding
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
