"""The model of a weight family, found by its name: a module of these rooms, e.g. `encoders/clip.py`.

Such a module has
    PRESETS: dict[str, Callable[[], config]]    of release sizes, by name
    from_settings(settings) -> config           settings: config.json's words, defaults filled in (`Family.settings`)
and a config has `.build(rngs)` and `.settings()`, the same words again.
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import jax
from flax import nnx

from vla_jax.convert.disk_parameters import check_settings
from vla_jax.convert.normalization import check_normalization
from vla_jax.convert.rules import find_family
from vla_jax.convert.safetensors_folder import interpreting
from vla_jax.encoders.vit import VitConfig
from vla_jax.parameters import abstract
from vla_jax.types import InputError, PictureNormalization

ROOMS = ("vlms", "encoders", "language")
"""A joined model comes before its halves, whose modules have the same name."""


class ModelConfig(Protocol):
    def build(self, rngs: nnx.Rngs) -> nnx.Module: ...

    def settings(self) -> dict[str, Any]: ...


class ModelModule(Protocol):
    PRESETS: Mapping[str, Callable[[], ModelConfig]]

    def from_settings(self, settings: Mapping[str, Any]) -> ModelConfig: ...


def find_model(family: str) -> ModelModule:
    """Raises InputError where the family has a rule table only: a policy's own parameters."""
    find_family(family)
    for room in ROOMS:
        name = f"vla_jax.{room}.{family}"
        if importlib.util.find_spec(f"vla_jax.{room}") and importlib.util.find_spec(name):
            module = importlib.import_module(name)
            if hasattr(module, "from_settings"):
                return cast(ModelModule, module)
    raise InputError(
        f"weight family {family!r} has no model of its own in {', '.join(ROOMS)}: it cannot be imported. A run "
        "or a parameter folder of a policy is read as it is, e.g. by --init-from"
    )


def config_of(family: str, config: Mapping[str, Any], *, file: Path) -> ModelConfig:
    """The model that a folder's config.json describes. Args: file: where `config` was read."""
    described, module = find_family(family), find_model(family)
    with interpreting(file):
        settings = described.settings(config)
        model = module.from_settings(settings)
    check_settings(file, model.settings(), settings)
    check_normalization(file.parent, normalization_of(model))
    return model


def normalization_of(config: Any) -> tuple[PictureNormalization, ...]:
    """Of every picture encoder in it: a field, at any depth, or what a config derives as `vit` or `encoders`."""
    if isinstance(config, VitConfig):
        return (config.normalization,)
    if isinstance(config, tuple):
        return tuple(found for one in config for found in normalization_of(one))
    if not dataclasses.is_dataclass(config):
        return ()
    names = {field.name: None for field in dataclasses.fields(config)} | {"vit": None, "encoders": None}
    return normalization_of(tuple(getattr(config, name, None) for name in names))


def shapes_of(model: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Of its parameters, by path."""
    return abstract(lambda: model.build(nnx.Rngs(0))).shapes()
