"""Environments without pictures; MuJoCo's GL backend is chosen before its first import."""

from collections.abc import Iterator

import pytest

from vla_jax.environments import graphics
from vla_jax.environments.base import Environment, open_environment

graphics.choose_backend()


@pytest.fixture(scope="session")
def environments() -> Iterator[dict[str, Environment]]:
    """By embodiment, state only."""
    built = {name: open_environment("tabletop", embodiment=name, image_size=None) for name in ("gantry", "arm")}
    yield built
    for environment in built.values():
        environment.close()


@pytest.fixture(params=("gantry", "arm"))
def environment(request, environments) -> Environment:
    return environments[request.param]
