"""How a folder's pictures are normalised, preprocessor_config.json, against what the model itself does to them.

Models of one architecture, and even of one config.json, were trained with different means: LAION's CLIPs, DINOv3's
satellite models. Nothing but this file tells them apart.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_jax.convert.safetensors_folder import read_json
from vla_jax.types import InputError, PictureNormalization

FILE = "preprocessor_config.json"
FIXED = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
"""Of all our encoders: RGB values in 0..1, then a mean and a deviation of each channel."""
ROUNDING = 2.0**-8
"""Relative: of numbers that a release has rounded to bfloat16."""


def check_normalization(folder: Path, expected: Sequence[PictureNormalization]) -> None:
    """What the file does not say is not compared, nor is a folder without the file.

    Args: folder: where config.json lies. expected: of each of the model's picture encoders; none: it sees no pictures.
    """
    if not expected or not (folder / FILE).is_file():
        return
    tree = read_json(folder / FILE)
    means, deviations = ([list(values) for values in both] for both in zip(*expected, strict=True))
    if len(expected) == 1:
        wanted = {"image_mean": means[0], "image_std": deviations[0]}
    else:  # the processor of Prismatic and OpenVLA
        wanted = {"means": means, "stds": deviations}
    for key, value in (FIXED | wanted).items():
        if tree.get(key) is not None and not _is_same(tree[key], value):
            raise InputError(
                f"{folder / FILE}: {key} is {tree[key]!r}, this model has {value!r}; these weights were trained on "
                "pictures that are normalised otherwise; take weights of a release that our model is of"
            )


def _is_same(found: Any, expected: Any) -> bool:
    try:
        numbers = np.asarray(found, np.float64)
    except (TypeError, ValueError):
        return False
    return numbers.shape == np.shape(expected) and np.allclose(numbers, expected, rtol=ROUNDING, atol=0)
