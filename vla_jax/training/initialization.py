"""What a fresh run starts from: another run's parameters, pretrained parts, or nothing but the seed."""

import logging
from collections.abc import Callable
from pathlib import Path

from flax import nnx

from vla_jax import config as configuration
from vla_jax import parameters as parameter_paths
from vla_jax.parameter_store import load_parameters
from vla_jax.training.program import Program, Shapes
from vla_jax.types import InputError, Parameters

log = logging.getLogger(__name__)


LoadPretrained = Callable[..., Parameters]
"""(part, shapes, *, shardings) -> the part's parameters, all by whole path: `vla_jax.convert.load.load_pretrained`."""


def starting_parameters(program: Program, init_from: Path | None, load_pretrained: LoadPretrained) -> Parameters:
    """Raises InputError where a parameter is missing or mis-shaped, or a frozen one would stay random."""
    config = program.config
    given = _pretrained(program, load_pretrained) if init_from is None else _of_another_run(init_from, program)
    if random := sorted(program.frozen.keys() - given.keys()):
        parts = [part.prefix for part in config.policy.pretrained_parts() if part.frozen and part.path is None]
        message = (
            f"policy: the frozen part {', '.join(parts) or random[0]} has no weights ({len(random)} parameters, "
            f"e.g. {random[0]}): name a local Hugging Face folder in the policy's configuration, or use --init-from"
        )
        if config.lora is not None:
            message += ", or train it in full (lora.trained)"
        if not config.allow_random_frozen:
            raise InputError(message + ". --allow-random-frozen keeps random ones (tests only)")
        log.warning("%s. They stay random, as allow_random_frozen says", message)
    return given


def _pretrained(program: Program, load_pretrained: LoadPretrained) -> Parameters:
    given: Parameters = {}
    shapes = _without_adapters(program)
    for part in program.config.policy.pretrained_parts():
        if part.path is not None:
            log.info("%s: reading %s weights from %s", part.prefix, part.family, part.path)
            given |= load_pretrained(part, shapes, shardings=program.shardings)
    return given


def _of_another_run(source: Path, program: Program) -> Parameters:
    """Adapters that the source lacks are drawn; those that this run does not go on with are merged."""
    stored = load_parameters(source)
    found, lora = stored.parameters, program.config.lora
    theirs = configuration.adapters_of(found, stored.config_file)
    if theirs is not None and (lora is None or not lora.continues(theirs)):
        log.info("--init-from %s: its adapters are merged", source)
        found, theirs = theirs.merge(found), None
    shapes = _without_adapters(program) if theirs is None else program.structure.shapes()
    if missing := sorted(shapes.keys() - found.keys()):
        raise InputError(f"--init-from {source}: {_some(missing)} missing; this configuration needs them")
    misfits = [
        f"{path} is {list(found[path].shape)}, expected {list(shape.shape)}"
        for path, shape in sorted(shapes.items())
        if found[path].shape != shape.shape
    ]
    if misfits:
        raise InputError(f"--init-from {source}: {_some(misfits)}; the configurations differ in these")
    if unused := sorted(found.keys() - shapes.keys()):
        log.warning("--init-from %s: not used: %s", source, _some(unused))
    log.info("--init-from %s: %s weights of %s", source, stored.weights, stored.folder)
    return {path: found[path] for path in shapes}


def _without_adapters(program: Program) -> Shapes:
    return parameter_paths.abstract(lambda: program.config.policy.build(nnx.Rngs(0))).shapes()


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
