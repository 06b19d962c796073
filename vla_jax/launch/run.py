"""What every launch file says of a run: the same command on every host, and one contract of exit codes.

0                        done
2                        bad input: starting again would not help
75                       start me again (preempted, or ended by the watchdog): always
all others, signals too  start again, at most `max_failures` times
"""

import dataclasses
import math
import re

from vla_jax.config import RunConfig
from vla_jax.launch.storage import KINDS, Storage
from vla_jax.types import InputError

_GIT_URL = r"(https|ssh|git)://\S+|[\w.-]+@[\w.-]+:\S+"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    name: str
    config: RunConfig
    """Of the recipe and what follows it."""
    arguments: tuple[str, ...]
    """Of train.py."""
    run_dir: str
    init_from: str | None = None
    storage: tuple[Storage, ...]
    code: str
    """A git URL that the hosts clone, or the absolute path of a checkout that they have."""
    revision: str | None = None
    max_failures: int = 10
    grace_seconds: int = 120

    def __post_init__(self):
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", self.name):
            raise InputError(f"--job-name {self.name}: small letters, digits and dashes, a letter first, 40 at most")
        if not (self.code.startswith("/") or re.fullmatch(_GIT_URL, self.code)):
            raise InputError(
                f"--code {self.code}: a git URL is expected, or the absolute path of a checkout on the hosts"
            )
        if self.clones and self.revision is None:
            raise InputError(f"--revision is missing: which commit of {self.code}? A run's starts need the same code")
        if not self.clones and self.revision is not None:
            raise InputError(f"--revision {self.revision}: it is of a git URL, but --code {self.code} is a checkout")
        for option, path in self._places():
            if not any(storage.holds(path) for storage in self.storage):
                raise InputError(
                    f"{option} {path}: nothing says that all hosts see the same files there; name a path under MOUNT "
                    "of --storage MOUNT[=SOURCE]"
                )

    def _places(self) -> list[tuple[str, str]]:
        """What the hosts read and write, with the option that names it."""
        config = self.config
        named = [("--run-dir", self.run_dir), ("--init-from", self.init_from), ("--data.cache", config.data.cache)]
        named += [("--data.root", config.data.root), ("--tokenizer.path", config.tokenizer.path)]
        named += [(f"the weights of {part.prefix},", part.path) for part in config.policy.pretrained_parts()]
        return [(option, path) for option, path in named if path and not (option == "--data.root" and "://" in path)]

    @property
    def clones(self) -> bool:
        return not self.code.startswith("/")

    @property
    def command(self) -> tuple[str, ...]:
        return (".venv/bin/python", "train.py", *self.arguments)

    def check_chips(self, chips: int) -> None:
        """The mesh of the recipe must fit what is asked for."""
        sizes = {field.name: getattr(self.config.mesh, field.name) for field in dataclasses.fields(self.config.mesh)}
        known = math.prod(size for size in sizes.values() if size != -1)
        if chips % known or (known != chips and -1 not in sizes.values()):
            said = " ".join(f"--mesh.{name.replace('_', '-')} {size}" for name, size in sizes.items())
            raise InputError(f"{said}: this file asks for {chips} chips, and the sizes must multiply to that number")

    def check_storage(self, target: str, *kinds: str) -> None:
        for storage in self.storage:
            if storage.kind not in kinds:
                wanted = " and ".join(KINDS[kind] for kind in kinds)
                raise InputError(f"--storage {storage}: --target {target} knows {wanted}")
