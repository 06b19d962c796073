"""JSON Schemas of every file that the commands write: the contract that tests and readers hold on to."""

import json
from importlib import resources
from typing import Any


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of `name`, e.g. `metrics_line`, `manifest`, `parity`; other files that it refers to are in it."""
    return json.loads((resources.files(__package__) / f"{name}.json").read_text(), object_hook=_put_in)


def _put_in(node: dict[str, Any]) -> dict[str, Any]:
    name, dot, _ = str(node.get("$ref", "")).partition(".json")
    return schema(name) if dot else node
