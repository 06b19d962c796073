"""Pretrained weights into parameters: strict, and straight from the mapped file to where they belong.

Everything that can be checked without reading a weight is checked first: config.json against the model's
settings, then names, shapes and dtypes. Nothing is skipped but what the family's table names.
"""

from collections.abc import Mapping
from pathlib import Path

import jax

from vla_jax.convert.disk_parameters import check_settings, disk_parameters
from vla_jax.convert.imported_folder import Part, imported_parameters, is_imported
from vla_jax.convert.normalization import check_normalization
from vla_jax.convert.rules import find_family
from vla_jax.convert.safetensors_folder import SafetensorsFolder, interpreting, read_json
from vla_jax.parameters import matching
from vla_jax.placement import put
from vla_jax.types import InputError, Parameters


def load_pretrained(
    part: Part,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    *,
    shardings: Mapping[str, jax.sharding.Sharding] | None = None,
    disk_dtype: str | None = None,
    allow_missing: tuple[str, ...] = (),
) -> Parameters:
    """Reads the parameters of `part`, by their whole path.

    Args:
        part: what to read, and the folder that it lies in: Hugging Face's, or one that `import` made.
        shapes: of the policy's parameters; those under `part.prefix` are read.
        shardings: by whole path; each device gets its own part only. None: the default device.
        disk_dtype: `float32`, `bfloat16`, `float16`: what the file must hold, cast to the parameters' dtype.
            None: the parameters' own.
        allow_missing: regular expressions of whole paths that may be absent; they are then absent here too. Each
            must match a parameter.

    Raises:
        InputError: the folder is not whole, not of this architecture, or holds a value that is not finite.
    """
    if part.path is None:
        raise InputError(f"no folder of {part.family} weights is named for {part.prefix!r}")
    folder, family, start = Path(part.path), find_family(part.family), f"{part.prefix}/"
    wanted = {path.removeprefix(start): shape for path, shape in shapes.items() if path.startswith(start)}
    assert wanted, f"no parameter lies under {part.prefix!r}"
    dispensable = {path.removeprefix(start) for path in matching([start + path for path in wanted], allow_missing)}
    dtypes = {path: disk_dtype or str(shape.dtype) for path, shape in wanted.items()}
    if is_imported(folder):
        found = imported_parameters(folder, part, wanted, dtypes, dispensable)
    else:
        weights, config = SafetensorsFolder(folder), read_json(folder / "config.json")
        with interpreting(folder / "config.json"):
            settings = family.settings(config)
        check_settings(folder / "config.json", part.settings, settings)
        check_normalization(folder, part.normalization)
        found = disk_parameters(weights, config, family, wanted, dtypes=dtypes, dispensable=dispensable)
    given = shardings or {}
    return {
        start + path: put(tensor.cast(wanted[path].dtype), given.get(start + path)) for path, tensor in found.items()
    }
