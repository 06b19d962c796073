"""The device mesh, and the one table from logical axes to mesh axes.

Models name the axes of their parameters (`kernel_metadata={"logical_axes": ("embed", "mlp")}`) and never see a mesh.

`data` copies the parameters, `fsdp` shares out how they are stored, `tensor` how they are computed with. Storage may go
by any dimension: where `fsdp` does not divide the one that the table names (2176 over 256), it takes the largest other
one that it divides, or else two, one for each half of its devices (1152 x 1152 over 256: 16 times 16), or as much of
itself as divides. Computation may not, so `tensor` has no such fallback: it divides the dimension of its rule, in whole
units (`heads:16` are 16 heads side by side: half a head on a device would make XLA gather activations in every layer,
silently), or the parameter is whole on every device. That is cheap for small parameters and refused for large ones,
whose owner asked for a mesh that brings nothing.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from vla_jax.types import InputError

MESH_AXES = ("data", "fsdp", "tensor")

PHASES = ("fsdp_major", "fsdp_minor")
"""`fsdp` in two, of nearly equal size: the sides of a square torus of TPUs."""

RULES: dict[str, str | None] = {
    "layers": None,
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",  # num_heads * head width, head-major
    "vocab": "tensor",
    "experts": "expert",  # reserved: no mesh has that axis yet
    "position": None,
    "patch": None,
    "feature": None,
}
"""A name may be followed by `:N`: the dimension holds N units that stay whole under `tensor`."""

WHOLE_AT_MOST = 2**24
"""Elements (64 MiB in float32) of a parameter that may lie whole on every device though its rule names a mesh axis."""

BATCH = PartitionSpec(("data", "fsdp"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes. One of `data`, `fsdp`, `tensor` may be -1: what the others leave of a slice's devices.

    A slice is a set of devices with fast links among all of them (a TPU slice, a host of GPUs). `data=4, fsdp=64,
    data_slices=2` on two slices of 256 is HSDP: parameters are gathered within a slice, gradients alone cross.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    data_slices: int = 1
    """`data` is that many times larger, over as many slices."""
    fsdp_slices: int = 1
    """As `data_slices`: parameters are then gathered across slices, for models that no single one can hold."""

    def __post_init__(self):
        sizes, slices = (self.data, self.fsdp, self.tensor), (self.data_slices, self.fsdp_slices)
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes) or min(slices) < 1:
            raise InputError(f"mesh {self}: positive sizes are expected, at most one of a slice's -1")

    def build(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """The mesh over `devices`, by default all of them; slices are equal parts of them in their order."""
        devices = list(jax.devices() if devices is None else devices)
        sizes = [self.data, self.fsdp, self.tensor]
        slices = self._slices(devices)
        if -1 in sizes:
            sizes[sizes.index(-1)] = len(slices[0]) // math.prod(size for size in sizes if size != -1)
        if math.prod(sizes) * len(slices) != len(devices):
            raise InputError(
                f"mesh data={self.data} fsdp={self.fsdp} tensor={self.tensor} with {len(slices)} slices does not fit "
                f"{len(devices)} devices: the sizes must multiply to that number"
            )
        if len(slices) == 1:
            return jax.make_mesh(sizes, MESH_AXES, devices=devices, axis_types=_AUTO)
        inside = np.stack([mesh_utils.create_device_mesh(sizes, part) for part in slices])
        inside = inside.reshape(self.data_slices, self.fsdp_slices, *sizes).transpose(0, 2, 1, 3, 4)
        whole = inside.reshape(self.data_slices * sizes[0], self.fsdp_slices * sizes[1], sizes[2])
        return Mesh(whole, MESH_AXES, axis_types=_AUTO)

    def _slices(self, devices: list[jax.Device]) -> list[list[jax.Device]]:
        asked = self.data_slices * self.fsdp_slices
        found = {getattr(device, "slice_index", None) for device in devices if device.platform == "tpu"}
        if found and len(found) != asked:
            raise InputError(
                f"mesh data_slices={self.data_slices} fsdp_slices={self.fsdp_slices}: the devices lie in {len(found)} "
                "slices, which the two must multiply to"
            )
        if len(found) > 1:
            devices = sorted(devices, key=lambda device: device.slice_index)
        size = max(len(devices) // asked, 1)
        return [devices[start : start + size] for start in range(0, asked * size, size)]


_AUTO = (AxisType.Auto,) * len(MESH_AXES)


def phased(mesh: Mesh) -> Mesh:
    """The same devices in the same order, with `PHASES` in the place of `fsdp`."""
    data, fsdp, tensor = mesh.axis_sizes
    major = next(size for size in range(math.isqrt(fsdp), 0, -1) if fsdp % size == 0)
    sizes, names, types = (data, major, fsdp // major, tensor), ("data", *PHASES, "tensor"), (AxisType.Auto,) * 4
    if isinstance(mesh, AbstractMesh):
        return AbstractMesh(sizes, names, axis_types=types)
    return Mesh(mesh.devices.reshape(sizes), names, axis_types=types)


def in_phases(spec: PartitionSpec) -> PartitionSpec:
    """The same shares in the names of a mesh in phases."""
    parts = (tuple(chain.from_iterable(PHASES if name == "fsdp" else (name,) for name in names_of(e))) for e in spec)
    return PartitionSpec(*(names or None for names in parts))


def names_of(entry: Any) -> tuple[str, ...]:
    """The mesh axes of one entry of a PartitionSpec."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def shared_over(place: NamedSharding) -> set[str]:
    """The axes of a mesh, not in phases, over which something is shared out."""
    names = chain.from_iterable(names_of(entry) for entry in place.spec)
    return {"fsdp" if name in PHASES else name for name in names}


def rule(axis: str | None) -> str | None:
    """The mesh axis of a logical axis."""
    return None if axis is None else RULES[_unit(axis)[0]]


def parameter_sharding(
    mesh: Mesh, shape: tuple[int, ...], axes: tuple[str | None, ...], *, path: str = "a parameter"
) -> NamedSharding:
    """The sharding of one parameter from its logical axes. Args: path: for the message of InputError."""
    if unknown := [axis for axis in axes if axis is not None and _unit(axis)[0] not in RULES]:
        raise InputError(f"logical axes {unknown} are not in the table of vla_jax/sharding.py: {sorted(RULES)}")
    parts: list[list[str]] = [[] for _ in shape]
    for target in ("tensor", "fsdp"):
        ruled = [place for place, axis in enumerate(axes) if rule(axis) == target]
        fits = [place for place in ruled if _divides(mesh, target, shape[place], axes[place])]
        if ruled and not fits and target == "fsdp":
            fits = _fallback(mesh, shape, axes, parts)
        if fits:
            parts[fits[0]].append(target)
        elif ruled and target == "fsdp" and _put_in_phases(mesh, shape, axes, parts):
            return NamedSharding(phased(mesh), PartitionSpec(*(_entry(names) for names in parts)))
        elif ruled and math.prod(shape) > WHOLE_AT_MOST:
            raise InputError(_misfit(mesh, shape, axes, ruled[0], path))
    return NamedSharding(mesh, PartitionSpec(*(_entry(names) for names in parts)))


def parameter_shardings(
    mesh: Mesh, shapes: dict[str, jax.ShapeDtypeStruct], axes: dict[str, tuple[str | None, ...]]
) -> dict[str, NamedSharding]:
    return {path: parameter_sharding(mesh, shapes[path].shape, axes[path], path=path) for path in shapes}


def _unit(axis: str) -> tuple[str, int | None]:
    name, _, count = axis.partition(":")
    return name, int(count) if count else None


def _divides(mesh: Mesh, target: str, size: int, axis: str | None) -> bool:
    count = _unit(axis)[1] if axis else None
    return (size if count is None else count) % mesh.shape[target] == 0


def _fallback(
    mesh: Mesh, shape: tuple[int, ...], axes: tuple[str | None, ...], parts: list[list[str]], target: str = "fsdp"
) -> list[int]:
    """Where `target` may go, best first. Never over `layers`: a scan takes them one by one."""
    ways = [mesh.shape[target] * math.prod(mesh.shape[name] for name in names) for names in parts]
    places = [place for place, size in enumerate(shape) if axes[place] != "layers" and size % ways[place] == 0]
    return sorted(places, key=lambda place: -shape[place])


def _put_in_phases(mesh: Mesh, shape: tuple[int, ...], axes: tuple[str | None, ...], parts: list[list[str]]) -> bool:
    """Puts each phase of `fsdp` where it divides, the larger one first. False: neither does so anywhere."""
    whole = phased(mesh)
    for phase in sorted(PHASES, key=lambda phase: -whole.shape[phase]):
        places = _fallback(whole, shape, axes, parts, phase) if whole.shape[phase] > 1 else []
        if places:
            parts[places[0]].append(phase)
    return any(phase in names for names in parts for phase in PHASES)


def _misfit(mesh: Mesh, shape: tuple[int, ...], axes: tuple[str | None, ...], place: int, path: str) -> str:
    axis = str(axes[place])
    name, count = _unit(axis)
    target = str(RULES[name])
    found = f"dimension {shape[place]}" if count is None else f"{count} {name}"
    other = ", nor any other dimension" if target == "fsdp" else ""
    return (
        f"mesh: {target}={mesh.shape[target]} does not divide the {found} of {path} {list(shape)} {axes} "
        f"(rule {name} -> {target}){other}; it would lie whole on every device. Choose another --mesh.{target}"
    )


def _entry(names: list[str]) -> str | tuple[str, ...] | None:
    return (names[0] if len(names) == 1 else tuple(names)) if names else None


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis over `data` and `fsdp`."""
    return NamedSharding(mesh, BATCH)


def check_batch_size(mesh: Mesh, batch_size: int, micro_batches: int = 1) -> None:
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % (ways * micro_batches):
        parts = f" in {micro_batches} micro_batches" if micro_batches > 1 else ""
        raise InputError(f"batch_size={batch_size} does not divide over data x fsdp = {ways} devices{parts}")


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
