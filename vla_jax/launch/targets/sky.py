"""A managed job of SkyPilot: GPU nodes of any cloud, or a TPU slice."""

import dataclasses

from vla_jax.launch.run import Run
from vla_jax.launch.templates import render
from vla_jax.launch.tpu import Slice
from vla_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    run: Run
    gpu: str = ""
    gpus: int = 8
    nodes: int = 1
    topology: str = ""
    spot: bool = False

    def render(self) -> str:
        self.run.check_storage("sky", "mounted", "bucket")
        if bool(self.gpu) == bool(self.topology):
            raise InputError("--target sky: either --gpu NAME (with --gpus and --nodes) or --topology is expected")
        if self.topology and self.nodes > 1:
            raise InputError(f"--nodes {self.nodes}: it is of GPUs; --topology {self.topology} has its hosts")
        slice_ = Slice.parse(self.topology) if self.topology else None
        self.run.check_chips(slice_.chips if slice_ else self.nodes * self.gpus)
        return render(
            "sky.yaml.j2",
            **vars(self),
            slice=slice_,
            buckets=[storage for storage in self.run.storage if storage.kind == "bucket"],
            checkout="vla_jax" if self.run.clones else self.run.code,
            requirements="requirements-tpu.txt" if slice_ else "requirements-cuda.txt",
        )
