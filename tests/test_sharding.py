import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from vla_jax.sharding import (
    MESH_AXES,
    RULES,
    MeshConfig,
    check_batch_size,
    parameter_sharding,
    parameter_shardings,
    process_rows,
    shared_over,
)
from vla_jax.types import InputError


@pytest.fixture(scope="module")
def mesh():
    return MeshConfig(data=2, fsdp=2, tensor=2).build()


@pytest.mark.parametrize(
    ("shape", "axes", "spec"),
    [
        ((3, 8, 16), ("layers", "embed", "mlp"), PartitionSpec(None, "fsdp", "tensor")),
        ((8, 7), ("embed", "mlp"), PartitionSpec("fsdp", None)),  # 7 does not divide: whole under tensor
        ((4, 6), ("heads", "mlp"), PartitionSpec("tensor", None)),  # a mesh axis is used once
        ((3, 6), ("heads", "mlp"), PartitionSpec(None, "tensor")),  # by the next dimension of its rule
        ((5,), (None,), PartitionSpec(None)),
        ((4, 8, 16), ("experts", "embed", "mlp"), PartitionSpec(None, "fsdp", "tensor")),  # reserved
        # fsdp falls back on the largest other dimension, behind tensor where that is there, never on the layers
        ((7, 6), ("embed", "feature"), PartitionSpec(None, "fsdp")),
        ((3, 2, 7, 6), (None, None, "embed", "feature"), PartitionSpec(None, None, None, "fsdp")),
        ((7, 8), ("embed", "mlp"), PartitionSpec(None, ("tensor", "fsdp"))),
        ((7, 6), ("embed", "mlp"), PartitionSpec(None, "tensor")),
        ((2, 7, 5), ("layers", "embed", "mlp"), PartitionSpec(None, None, None)),
        # heads stay whole under tensor, however wide they are
        ((8, 24), ("embed", "heads:2"), PartitionSpec("fsdp", "tensor")),
        ((8, 24), ("embed", "heads:3"), PartitionSpec("fsdp", None)),
        ((7, 24), ("embed", "heads:3"), PartitionSpec(None, "fsdp")),
    ],
)
def test_logical_axes_become_mesh_axes_where_they_divide(mesh, shape, axes, spec):
    assert parameter_sharding(mesh, shape, axes).spec == spec


def test_a_projector_of_two_encoders_is_stored_on_256_devices_by_its_hidden_width():
    pod = AbstractMesh((1, 256, 1), MESH_AXES)
    assert parameter_sharding(pod, (2176, 8704), ("embed", "mlp")).spec == PartitionSpec(None, ("tensor", "fsdp"))


@pytest.mark.parametrize(
    ("shape", "axes", "share"),
    [
        ((27, 1152, 1152), ("layers", "embed", "heads:16"), (27, 72, 72)),
        ((27, 1152, 4304), ("layers", "embed", "mlp"), (27, 72, 269)),
        ((1152, 5), ("embed", None), (72, 5)),
        ((7, 8), ("embed", "mlp"), (7, 8)),
    ],
)
def test_where_256_divide_no_dimension_16_and_16_may_divide_two(shape, axes, share):
    found = parameter_sharding(AbstractMesh((1, 256, 1), MESH_AXES), shape, axes)
    assert found.shard_shape(shape) == share
    assert shared_over(found) - {"tensor"} == ({"fsdp"} if share != shape else set())


@pytest.mark.parametrize(
    ("shape", "axes", "message"),
    [
        (
            (4099, 4099),
            ("embed", "feature"),
            r"fsdp=2 does not divide .* 4099 of vlm/kernel .*embed -> fsdp.*nor any other",
        ),
        ((4096, 4097), ("embed", "mlp"), r"tensor=2 does not divide .* 4097 of vlm/kernel .*--mesh.tensor"),
        ((4096, 4200), ("embed", "heads:3"), r"tensor=2 does not divide the 3 heads of vlm/kernel .*heads -> tensor"),
    ],
)
def test_a_large_parameter_that_would_lie_whole_everywhere_is_refused_by_name_and_rule(mesh, shape, axes, message):
    shapes = {"vlm/kernel": jax.ShapeDtypeStruct(shape, np.float32)}
    small = {"vlm/kernel": jax.ShapeDtypeStruct(tuple(size % 97 for size in shape), np.float32)}
    alone = AbstractMesh((8, 1, 1), MESH_AXES)
    assert parameter_shardings(alone, shapes, {"vlm/kernel": axes})
    assert parameter_shardings(mesh, small, {"vlm/kernel": axes})
    with pytest.raises(InputError, match=message):
        parameter_shardings(mesh, shapes, {"vlm/kernel": axes})


def test_an_axis_outside_the_table_is_refused(mesh):
    with pytest.raises(InputError, match="embedd"):
        parameter_sharding(mesh, (4,), ("embedd",))


def test_every_rule_names_a_mesh_axis(mesh):
    assert {axis for axis in RULES.values() if axis} == {"fsdp", "tensor", "expert"}
    assert {axis for axis in RULES.values() if axis} - set(mesh.axis_names) == {"expert"}


def test_one_size_may_be_left_open():
    assert dict(MeshConfig(data=-1, fsdp=4).build().shape) == {"data": 2, "fsdp": 4, "tensor": 1}


def test_slices_are_the_outer_part_of_data_and_the_rest_lies_within_one():
    """HSDP: whoever shares a copy of the parameters is in one slice."""
    numbers = [[device.id for device in row.ravel()] for row in _mesh(fsdp=2, tensor=2, data_slices=2).devices]
    assert numbers == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert dict(_mesh(data=1, fsdp=2, tensor=2, fsdp_slices=2).shape) == {"data": 1, "fsdp": 4, "tensor": 2}
    both = _mesh(data=2, fsdp=2, data_slices=2).devices[..., 0]
    assert [[device.id for device in row] for row in both] == [[0, 1], [2, 3], [4, 5], [6, 7]]


@dataclasses.dataclass(frozen=True)
class Chip:
    """As much of a TPU device as a mesh is made of."""

    id: int
    slice_index: int
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"

    @property
    def process_index(self):
        return self.id


def test_the_slices_of_a_pod_are_those_that_its_devices_name():
    chips = [Chip(id=number, slice_index=number % 2) for number in range(4)]
    with pytest.raises(InputError, match="lie in 2 slices"):
        MeshConfig().build(chips)
    with pytest.raises(InputError, match="lie in 1 slices"):
        MeshConfig(data_slices=2).build(chips[::2])
    groups = MeshConfig(fsdp=-1, data=1, data_slices=2)._slices(chips)
    assert [[chip.id for chip in group] for group in groups] == [[0, 2], [1, 3]]


def _mesh(**sizes):
    return MeshConfig(**sizes).build()


@pytest.mark.parametrize(
    "sizes", [{"data": 3}, {"data": -1, "fsdp": 3}, {"data": 1, "fsdp": 2}, {"data_slices": 3}, {"data_slices": 16}]
)
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
