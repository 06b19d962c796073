"""A run's configuration and its JSON round trip.

Each component owns its frozen dataclass; `RunConfig` only gathers them. JSON carries `type` (module and
class) wherever a field's value is a subclass, and loading resolves it inside this project's own packages
only: a configuration file cannot name other code.
"""

import dataclasses
import importlib
import json
import math
import types as python_types
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any

from flax import nnx

from data_pipelines.config import DataConfig
from vla_jax.language.tokenizer import TokenizerConfig
from vla_jax.nn.attention_kernels import Choice
from vla_jax.nn.lora import LoraConfig, is_adapter
from vla_jax.parameters import matching
from vla_jax.policies.base import Policy, PolicyConfig
from vla_jax.sharding import MeshConfig
from vla_jax.training.augmentation import ColorJitterConfig
from vla_jax.training.bad_steps import SkipConfig
from vla_jax.training.optimizer import OptimizerConfig
from vla_jax.training.watchdog import WatchdogConfig
from vla_jax.types import ActionSpace, InputError

SCHEMA_VERSION = 5
OWN_PACKAGES = ("vla_jax.", "data_pipelines.")
MAY_CHANGE_ON_RESUME = (
    *("num_steps", "log_every", "checkpoint_every", "mesh", "skip", "attention", "watchdog"),
    *("data.root", "data.cache", "data.max_bad_share", "data.num_threads", "data.prefetch"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    name: str
    policy: PolicyConfig
    data: DataConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    augmentation: ColorJitterConfig | None = ColorJitterConfig()
    lora: LoraConfig | None = None
    """Set: adapters train, and what it names beside them; all else is frozen."""
    mesh: MeshConfig = MeshConfig()
    seed: int = 42
    num_steps: int = 40_000
    batch_size: int = 64
    """Global: over all devices and hosts."""
    micro_batches: int = 1
    """The batch goes through the policy in so many parts, one after another: their memory, the same gradient."""
    skip: SkipConfig | None = None
    """None: a loss or gradient that is not finite stops the run. Set: bad steps are left out."""
    compute_dtype: typing.Literal["float32", "bfloat16"] = "bfloat16"
    """Of activations; master weights are float32."""
    gradient_reduction: typing.Literal["compute", "float32"] = "compute"
    """The dtype in which gradients of linear layers are summed over devices; `float32` doubles what is sent."""
    attention: Choice = "auto"
    """What computes it, of what the platform has; see `nn/attention_kernels.py`."""
    ema_decay: float | None = 0.999
    """None: no moving average."""
    log_every: int = 50
    checkpoint_every: int = 1_000
    keep_checkpoints: int = 3
    watchdog: WatchdogConfig = WatchdogConfig()
    allow_random_frozen: bool = False
    """True: a frozen encoder may keep random weights (tiny twins and tests only)."""
    loggers: tuple[typing.Literal["tensorboard", "wandb"], ...] = ()
    """Never imported unless asked for."""

    def __post_init__(self):
        for name in ("num_steps", "batch_size", "micro_batches", "log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: at least 1 expected")
        for part in self.policy.pretrained_parts():
            if part.path is not None and part.reads_text and self.tokenizer.path is None:
                raise InputError(
                    f"tokenizer.path is not set, but {part.prefix} reads text with the weights of {part.path}: give "
                    "the folder of their tokenizer.json (usually the same one)"
                )

    @property
    def action_space(self) -> ActionSpace:
        """The policy's: the one statement of what actions mean."""
        return self.policy.action_space

    def build_policy(self, rngs: nnx.Rngs) -> Policy:
        """The policy as it trains, with its adapters; `policy.build` gives it without."""
        policy = self.policy.build(rngs)
        if self.lora is not None:
            self.lora.apply(policy, rngs)
        return policy

    def frozen(self, paths: Collection[str]) -> frozenset[str]:
        """Those of the parameters of `build_policy` that do not train."""
        frozen = matching(paths, self.policy.frozen_paths())
        return frozen if self.lora is None else frozenset(paths) - self.lora.trainable(paths, frozen)


def to_json(config: Any) -> dict[str, Any]:
    """A JSON-ready tree of a config dataclass, with the schema version at its root."""
    return {"schema_version": SCHEMA_VERSION} | _encode(config, type(config))


def from_json(tree: dict[str, Any], cls: type = RunConfig, *, source: str = "config.json") -> Any:
    """Rebuilds a config; unknown or missing keys, other versions and foreign classes are `InputError`s."""
    tree = dict(tree)
    version = tree.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{source}: schema_version is {version!r}, this one reads {SCHEMA_VERSION}; use the version that wrote it"
        )
    return _decode(tree, cls, source)


def save(config: RunConfig, path: Path) -> None:
    path.write_text(json.dumps(to_json(config), indent=2) + "\n")


def load(path: Path) -> RunConfig:
    try:
        tree = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a readable configuration ({error})") from error
    return from_json(tree, source=str(path))


def adapters_of(paths: Collection[str], file: Path) -> LoraConfig | None:
    """The adapters that stored parameters have, as the configuration beside them says. None: they have none."""
    stray = next(filter(is_adapter, paths), None)
    if stray is None:
        return None
    lora = load(file).lora
    if lora is None:
        raise InputError(f"{file}: lora is not set, yet {stray} lies beside it; the folder was made of two runs")
    return lora


def changes_that_forbid_resume(old: RunConfig, new: RunConfig) -> list[str]:
    """Dotted keys, with both values, that differ and may not change within a run."""
    before, after = _flatten(to_json(old)), _flatten(to_json(new))
    return [
        f"{key}: {before.get(key)!r} in the run, {after.get(key)!r} now"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
        and not any(key == free or key.startswith(free + ".") for free in MAY_CHANGE_ON_RESUME)
    ]


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, (dict, list)):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat or {prefix: tree}


def _encode(value: Any, declared: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        hints = typing.get_type_hints(cls)
        tree = {field.name: _encode(getattr(value, field.name), hints[field.name]) for field in dataclasses.fields(cls)}
        if cls not in _members(declared):
            tree = {"type": f"{cls.__module__}:{cls.__qualname__}"} | tree
        return tree
    if isinstance(value, (tuple, list)):
        element = (typing.get_args(declared) or (Any,))[0]
        return [_encode(item, element) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"a configuration value is {value}; finite numbers are expected")
    return value


def _decode(tree: Any, declared: Any, where: str) -> Any:
    if isinstance(tree, dict):
        return _decode_dataclass(tree, declared, where)
    if isinstance(tree, list):
        element = next((typing.get_args(m) for m in _members(declared) if typing.get_origin(m) is tuple), (Any,))
        return tuple(
            _decode(item, element[0] if len(element) < 2 or element[1] is Ellipsis else element[i], f"{where}[{i}]")
            for i, item in enumerate(tree)
        )
    allowed = tuple(_plain(member) for member in _members(declared))
    if Any not in allowed and not isinstance(tree, allowed) and not (float in allowed and type(tree) is int):
        raise InputError(f"{where}: found {tree!r}, expected {declared}")
    literals = [arg for m in _members(declared) if typing.get_origin(m) is typing.Literal for arg in typing.get_args(m)]
    if literals and isinstance(tree, str) and tree not in literals:
        raise InputError(f"{where}: found {tree!r}, expected one of {literals}")
    return tree


def _decode_dataclass(tree: dict[str, Any], declared: Any, where: str) -> Any:
    tree = dict(tree)
    candidates = [member for member in _members(declared) if dataclasses.is_dataclass(member)]
    cls: Any
    if "type" in tree:
        cls = _own_class(tree.pop("type"), declared, where)
    elif candidates:
        cls = candidates[0]
    else:
        raise InputError(f"{where}: found an object, expected {declared}")
    hints = typing.get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(tree.keys() - names):
        raise InputError(f"{where}: unknown keys {unknown}; {cls.__name__} has {sorted(names)}")
    if missing := sorted(names - tree.keys()):
        raise InputError(f"{where}: keys {missing} of {cls.__name__} are missing")
    return cls(**{name: _decode(value, hints[name], f"{where}: {name}") for name, value in tree.items()})


def _own_class(name: str, declared: Any, where: str) -> type:
    module, _, qualname = str(name).partition(":")
    if not module.startswith(OWN_PACKAGES) or not qualname.isidentifier():
        raise InputError(f"{where}: type {name!r} is not one of this project's configs")
    try:
        cls = getattr(importlib.import_module(module), qualname)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{where}: type {name!r} does not exist in this version") from error
    bases = tuple(m for m in _members(declared) if isinstance(m, type))
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls) and issubclass(cls, bases)):
        raise InputError(f"{where}: type {name!r} is not a {declared}")
    return cls


def _members(declared: Any) -> tuple[Any, ...]:
    if typing.get_origin(declared) in (typing.Union, python_types.UnionType):
        return typing.get_args(declared)
    return (declared,)


def _plain(member: Any) -> Any:
    origin = typing.get_origin(member)
    if origin is typing.Literal:
        return str
    return origin or member
