"""The device mesh, and the one table from logical axes to mesh axes.

Models name the axes of their parameters (`kernel_metadata={"logical_axes": ("embed", "mlp")}`) and never see
a mesh. A dimension that the mesh axis does not divide is replicated instead.
"""

import dataclasses
import math
from collections.abc import Iterable

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vla_jax.types import InputError

MESH_AXES = ("data", "fsdp", "tensor")

RULES: dict[str, str | None] = {
    "layers": None,
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",  # num_heads * head width, head-major
    "vocab": "tensor",
    "position": None,
    "patch": None,
    "feature": None,
}

BATCH = PartitionSpec(("data", "fsdp"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes; one of them may be -1: what the other two leave of the devices."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = (self.data, self.fsdp, self.tensor)
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise InputError(f"mesh {self}: positive sizes are expected, at most one of them -1")

    def build(self, devices: list[jax.Device] | None = None) -> Mesh:
        devices = jax.devices() if devices is None else devices
        sizes = [self.data, self.fsdp, self.tensor]
        if -1 in sizes:
            sizes[sizes.index(-1)] = len(devices) // math.prod(size for size in sizes if size != -1)
        if math.prod(sizes) != len(devices):
            raise InputError(
                f"mesh data={self.data} fsdp={self.fsdp} tensor={self.tensor} does not fit {len(devices)} devices: "
                "the sizes must multiply to that number"
            )
        return jax.make_mesh(sizes, MESH_AXES, devices=devices, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def parameter_sharding(mesh: Mesh, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> NamedSharding:
    """The sharding of one parameter from its logical axes."""
    if unknown := [axis for axis in axes if axis is not None and axis not in RULES]:
        raise InputError(f"logical axes {unknown} are not in the table of vla_jax/sharding.py: {sorted(RULES)}")
    spec, used = [], set()
    for size, axis in zip(shape, axes, strict=True):
        target = RULES[axis] if axis else None
        fits = target is not None and target not in used and size % mesh.shape[target] == 0
        spec.append(target if fits else None)
        used.add(target)
    return NamedSharding(mesh, PartitionSpec(*spec))


def parameter_shardings(
    mesh: Mesh, shapes: dict[str, jax.ShapeDtypeStruct], axes: dict[str, tuple[str | None, ...]]
) -> dict[str, NamedSharding]:
    return {path: parameter_sharding(mesh, shapes[path].shape, axes[path]) for path in shapes}


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis over `data` and `fsdp`."""
    return NamedSharding(mesh, BATCH)


def check_batch_size(mesh: Mesh, batch_size: int) -> None:
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % ways:
        raise InputError(f"batch_size={batch_size} does not divide over data x fsdp = {ways} devices")


def process_rows(mesh: Mesh, batch_size: int, devices: Iterable[jax.Device] | None = None) -> slice:
    """The rows of the global batch that the devices of one process hold, or the shortest slice that covers them.

    Slices of processes overlap where `tensor` spans processes, or where the mesh orders its devices unlike the
    processes. Args: devices: by default this process's.
    """
    indices = batch_sharding(mesh).devices_indices_map((batch_size,))
    held = [row_bounds(indices[device][0], batch_size) for device in devices or mesh.local_devices]
    return slice(min(start for start, _ in held), max(stop for _, stop in held))


def row_bounds(rows: slice, batch_size: int) -> tuple[int, int]:
    """First row, and the one past the last, of JAX's index: a slice that may be open."""
    start, stop, _ = rows.indices(batch_size)
    return start, stop
