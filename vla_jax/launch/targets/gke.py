"""TPU slices of a GKE cluster, as a JobSet; one pod a host. A failed pod starts the whole set again."""

import dataclasses

from vla_jax.launch.run import Run
from vla_jax.launch.templates import render
from vla_jax.launch.tpu import Slice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    run: Run
    topology: str
    cluster: str = "CLUSTER"
    image: str = "python:3.12"
    slices: int = 1
    spot: bool = False
    service_account: str = ""

    def render(self) -> str:
        self.run.check_storage("gke", "bucket", "nfs", "claim")
        slice_ = Slice.parse(self.topology)
        slice_.check_count(self.slices)
        self.run.check_chips(slice_.chips * self.slices)
        checkout = "/opt/vla_jax" if self.run.clones else self.run.code
        values = vars(self) | {"slice": slice_, "checkout": checkout, "requirements": "requirements-tpu.txt"}
        return render("gke.yaml.j2", **values)
