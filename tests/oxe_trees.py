"""The true feature trees of Open X-Embodiment, compact, as committed beside the tests.

`oxe_trees.json.gz` is made from the design's oxe_features.json by `python -m tests.oxe_trees FILE`: by dataset name
the features in [kind, shape, dtype, encoding, parts of its key where one has a slash of its own], and the splits.
"""

import functools
import gzip
import json
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "data_pipelines" / "oxe_trees.json.gz"
NAMES = {
    "bridge_dataset": "bridge_data_v2",
    "bridge_orig": "bridge_data_v2",
    "bridge_oxe": "bridge",
    "fmb_dataset": "fmb",
    "roboset": "robo_set",
    "droid_wipe": "droid",
    "aloha_mobile_dataset": "aloha_mobile",
}
"""Datasets with the tree of another name."""


def tree_of(name: str) -> dict[str, Any] | None:
    return read().get(NAMES.get(name, name))


def compact(trees: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {
            "location": entry["location"],
            "splits": entry["splits"],
            "features": {key: _leaf(feature) for key, feature in sorted(entry["features"].items())},
        }
        for name, entry in sorted(trees.items())
    }


def _leaf(feature: dict[str, Any]) -> list[Any]:
    encoding = feature.get("encoding") or feature.get("disk_encoding") or ""
    return [feature["kind"], feature.get("shape"), feature.get("dtype"), encoding, feature.get("key_parts")]


def write(source: Path) -> None:
    text = json.dumps(compact(json.loads(source.read_text())), separators=(",", ":"))
    FILE.write_bytes(gzip.compress(text.encode(), mtime=0))


@functools.cache
def read() -> dict[str, Any]:
    return json.loads(gzip.decompress(FILE.read_bytes()))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
