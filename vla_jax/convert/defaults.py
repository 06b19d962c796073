"""config.json with what transformers assumes where it is silent."""

from collections.abc import Mapping
from typing import Any

SIDES = ("image_size", "patch_size")


def filled(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `defaults`; a pair of equal sides is one number, as most releases have it."""
    found = {key: config.get(key, default) for key, default in defaults.items()}
    for key in found.keys() & set(SIDES):
        sides = found[key]
        if isinstance(sides, (list, tuple)) and len(set(sides)) == 1:
            found[key] = sides[0]
    return found
