"""Words of config.json against a model's own: what a family's models share is required, the rest is renamed."""

from collections.abc import Mapping
from typing import Any

from vla_jax.types import InputError


def require(settings: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises InputError where config.json says what the models of this family are not."""
    for key, value in expected.items():
        if settings.get(key) != value:
            raise InputError(
                f"config.json: {key} is {settings.get(key)!r}, expected {value!r}; no other is read, as no release of "
                "this family has it"
            )


def counts(settings: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Args: names: theirs -> ours, of what must be a positive integer."""
    for key in names:
        if not isinstance(settings.get(key), int) or settings[key] < 1:
            raise InputError(f"config.json: {key} is {settings.get(key)!r}, expected a positive integer")
    return {ours: settings[theirs] for theirs, ours in names.items()}


TRANSFORMER = {
    "hidden_size": "width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
}
PICTURE = {"image_size": "image_size", "patch_size": "patch_size"}
"""transformers' words -> ours."""
