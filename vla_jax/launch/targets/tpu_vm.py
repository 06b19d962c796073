"""Cloud TPU VMs by queued resources: a script that asks for them; each host runs a restart loop as a systemd unit."""

import dataclasses

from vla_jax.launch.run import Run
from vla_jax.launch.templates import render
from vla_jax.launch.tpu import Slice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    run: Run
    topology: str
    zone: str
    slices: int = 1
    spot: bool = False
    service_account: str = ""

    def render(self) -> str:
        self.run.check_storage("tpu-vm", "mounted", "bucket", "nfs")
        slice_ = Slice.parse(self.topology)
        slice_.check_count(self.slices)
        self.run.check_chips(slice_.chips * self.slices)
        checkout = f"/opt/{self.run.name}" if self.run.clones else self.run.code
        return render(
            "tpu_vm.sh.j2",
            **vars(self),
            slice=slice_,
            checkout=checkout,
            requirements="requirements-tpu.txt",
            pause_seconds=10,
        )
