"""JSON Schemas of every file that the commands write: the contract that tests and readers hold on to."""

import json
from importlib import resources
from typing import Any


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of `name`, e.g. `metrics_line`, `manifest`, `parity`."""
    return json.loads((resources.files(__package__) / f"{name}.json").read_text())
