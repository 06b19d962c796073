"""What a recipe says about its data, where a slip would train on something else."""

import math

import pytest

from data_pipelines.config import CropConfig, DataConfig, MixtureEntry
from vla_jax.types import InputError


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (DataConfig, {"root": "", "access": "Frame"}, r"data\.access='Frame': one of \['frame', 'episode'\]"),
        (DataConfig, {"root": "", "statistics_per": "robot"}, r"data\.statistics_per='robot': one of \['dataset'"),
        (MixtureEntry, {"name": "toto", "standardization": "Upstream"}, r"toto: standardization='Upstream': one of"),
    ],
)
def test_words_that_nothing_reads_are_refused(make, values, message):
    with pytest.raises(InputError, match=message):
        make(**values)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_weights_are_positive_numbers(weight):
    with pytest.raises(InputError, match="a positive number is expected"):
        MixtureEntry(name="toto", weight=weight)


def test_the_ratio_of_a_crop_is_a_number():
    with pytest.raises(InputError, match=r"data\.crop\.ratio"):
        CropConfig(ratio=(0.9, math.inf))
