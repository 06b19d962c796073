"""Templates of launch files, in jinja2: `sh` quotes a word for bash, `yaml` one for YAML, `kubernetes` for `args`."""

import json
from pathlib import Path
from typing import Any

import jinja2

from vla_jax.launch.quoting import kubernetes_word, shell_word, shell_words

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters |= {
    "sh": shell_word,
    "sh_words": shell_words,
    "yaml": lambda value: json.dumps(value, ensure_ascii=False),
    "kubernetes": kubernetes_word,
}


def render(name: str, **values: Any) -> str:
    return _ENVIRONMENT.get_template(name).render(values)
