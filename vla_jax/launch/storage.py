"""File systems that all hosts of a run see."""

import dataclasses
import re
from pathlib import PurePosixPath

from vla_jax.types import InputError

KINDS = {
    "mounted": "MOUNT alone, which the hosts have",
    "bucket": "MOUNT=gs://BUCKET",
    "nfs": "MOUNT=HOST:/EXPORT",
    "claim": "MOUNT=pvc:NAME",
}
_FORMS = {"bucket": r"gs://([\w.-]+)", "nfs": r"([\w.-]+:/(?!/)[\w./-]*)", "claim": r"pvc:([a-z0-9.-]+)"}
_OF_ONE_HOST = ("/tmp", "/var/tmp", "/dev", "/run", "/proc")


@dataclasses.dataclass(frozen=True)
class Storage:
    """`--storage MOUNT=SOURCE`, or `MOUNT` where the hosts have it already."""

    mount: str
    kind: str
    source: str = ""

    @classmethod
    def parse(cls, text: str) -> "Storage":
        mount, equals, source = text.partition("=")
        if not re.fullmatch(r"(/[\w.-]+)+", mount) or ".." in mount.split("/"):
            raise InputError(f"--storage {text}: MOUNT is an absolute path of letters, digits, dots and dashes")
        if any(PurePosixPath(mount).is_relative_to(place) for place in _OF_ONE_HOST):
            raise InputError(f"--storage {text}: every host has a {mount} of its own; name one that all of them see")
        if not equals:
            return cls(mount, "mounted")
        for kind, form in _FORMS.items():
            if found := re.fullmatch(form, source):
                return cls(mount, kind, found[1])
        raise InputError(f"--storage {text}: expected {', '.join(KINDS.values())}")

    def __str__(self) -> str:
        return f"{self.mount} ({self.kind} {self.source})" if self.source else self.mount

    def holds(self, path: str) -> bool:
        place = PurePosixPath(path)
        return place.is_relative_to(self.mount) and place != PurePosixPath(self.mount) and ".." not in place.parts
