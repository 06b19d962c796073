"""OpenVLA as its release stores it: `vision_backbone.*`, `projector.*`, and a whole Llama under `language_model.`.

Facts: openvla `modeling_prismatic.py`, `configuration_prismatic.py`. `text_config` is read with Llama's defaults.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from vla_jax.convert.families import llama, prismatic
from vla_jax.convert.module_rules import linear
from vla_jax.convert.rules import Family, Rule

LANGUAGE = "language_model."
SILENCE = "no-align+gelu-mlp"
"""`arch_specifier`, where config.json does not say it: that of a single encoder, which is not ours."""


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    text = llama.settings(config.get("text_config", {}))
    own = {"arch_specifier": config.get("arch_specifier", SILENCE), "text_config": text}
    return prismatic.settings(config) | own


def _under(rules: Iterable[Rule], *, disk: str = "", path: str) -> list[Rule]:
    return [
        dataclasses.replace(rule, disk=disk + rule.disk, paths=tuple(f"{path}/{own}" for own in rule.paths))
        for rule in rules
    ]


FAMILY = Family(
    rules=(
        *_under(prismatic.FAMILY.rules, path="vision"),
        *linear("projector.fc1", "projector/first"),
        *linear("projector.fc2", "projector/second"),
        *linear("projector.fc3", "projector/third"),
        *_under(llama.FAMILY.rules, disk=LANGUAGE, path="language"),
    ),
    ignored=tuple(rf"language_model\.{pattern}" for pattern in llama.FAMILY.ignored),
    settings=settings,
    tied={LANGUAGE + name: LANGUAGE + repeated for name, repeated in llama.FAMILY.tied.items()},
)
