"""config.json with what transformers assumes where it is silent, and whether it is of a family at all."""

from collections.abc import Mapping
from typing import Any

from vla_jax.types import InputError

SIDES = ("image_size", "patch_size")


def check_model_type(config: Mapping[str, Any], *expected: str) -> None:
    """Raises InputError: it says another, or quantised weights.

    Models of other kinds may have tensors of the same names and shapes; quantised ones have others than the family's.
    """
    found = config.get("model_type", expected[0])
    if found not in expected:
        wanted = " or ".join(map(repr, expected))
        raise InputError(f"config.json: model_type is {found!r}, expected {wanted}; name the family of these weights")
    if (method := config.get("quantization_config")) is not None:
        raise InputError(
            f"config.json: quantization_config is {method!r}, expected none: these weights are quantised (GPTQ, AWQ, "
            "bitsandbytes and the like); take the unquantised ones, in bfloat16 or float32"
        )


def filled(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `defaults`; a pair of equal sides is one number, as most releases have it."""
    found = {key: config.get(key, default) for key, default in defaults.items()}
    for key in found.keys() & set(SIDES):
        sides = found[key]
        if isinstance(sides, (list, tuple)) and len(set(sides)) == 1:
            found[key] = sides[0]
    return found
