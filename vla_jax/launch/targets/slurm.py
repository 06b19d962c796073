"""GPU nodes under SLURM, one process a node; the job puts itself back into the queue."""

import dataclasses

from vla_jax.launch.run import Run
from vla_jax.launch.templates import render
from vla_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    run: Run
    nodes: int = 1
    gpus: int = 8
    cpus: int = 64
    time: str = "2-00:00:00"
    partition: str = ""
    account: str = ""

    def render(self) -> str:
        self.run.check_storage("slurm", "mounted")
        self.run.check_chips(self.nodes * self.gpus)
        if self.run.clones:
            raise InputError(
                f"--code {self.run.code}: nodes of a SLURM cluster share their files; name the checkout there, e.g. "
                "--code /home/NAME/vla_jax"
            )
        return render("slurm.sh.j2", **vars(self), requirements="requirements-cuda.txt")
