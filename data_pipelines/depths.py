"""Depth pictures of one dataset as they lie in its shards, and those of a policy's that it cannot give.

Axes: y x pixels.
"""

import logging

import numpy as np

from data_pipelines.index.sidecar import Index
from data_pipelines.reading import Reader
from data_pipelines.spec import DatasetSpec
from data_pipelines.transforms.depth import DecodeDepth
from vla_jax.types import DepthRequirement

LOG = logging.getLogger(__name__)


def depth_spans(index: Index, key: str) -> np.ndarray:
    """int64[step, 2]: offset and length. InputError where the data have no such depth. Args: key: of features.json."""
    kind = index.tree["features"].get(key, {"kind": "image"})["kind"]
    return index.column(key, "array" if kind == "array" else "image")


def read_depth(index: Index, reader: Reader, key: str, row: int) -> np.ndarray:
    """[y, x] as stored; ValueError where undecodable. Args: key: of features.json."""
    offset, length = map(int, depth_spans(index, key)[row])
    data = reader.read(row, offset, length)
    if len(data) != length:
        raise ValueError(f"the shard ends after {len(data)} of its {length} bytes")
    feature = index.tree["features"][key]
    return DecodeDepth(feature["kind"], tuple(feature["shape"]), feature["dtype"], feature["encoding"])(data)


def known_depths(spec: DatasetSpec, depths: tuple[DepthRequirement, ...]) -> dict[str, float]:
    """Metres of the stored number 1, by slot, of the depths that the dataset has in a known unit."""
    given = {depth.slot: spec.depths[depth.slot].metres for depth in depths if depth.slot in spec.depths}
    return {slot: metres for slot, metres in given.items() if metres is not None}


def warn_of_masked(spec: DatasetSpec, depths: tuple[DepthRequirement, ...]) -> None:
    known = known_depths(spec, depths)
    for slot in (depth.slot for depth in depths if depth.slot not in known):
        reason = "its unit is not published" if slot in spec.depths else f"there is none, only {sorted(spec.depths)}"
        LOG.warning("dataset %s: depth of the camera %r is masked: %s", spec.name, slot, reason)
