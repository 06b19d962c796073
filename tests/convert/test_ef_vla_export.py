"""Every preset of EF-VLA as a PyTorch folder; the first has its own tests, `test_export.py`."""

import dataclasses
import json

import pytest

from tests.convert.conftest import run_config, write_parameters
from vla_jax.__main__ import main
from vla_jax.encoders.clip_features import ClipTokens
from vla_jax.policies import ef_vla

OPTIONS = {
    "lf_vla": {"clip_features": ClipTokens(last_attention=None)},
    "otter_torch": {"text_mask": "words"},
    "ef_xattn": {"text_mask": "valid"},
}
"""What is set beside the preset, so that each value stands in some export."""


def error_of(preset, tmp_path, **changes) -> float:
    config = run_config(preset, "none", **changes)
    folder = write_parameters(tmp_path / "parameters", config, datasets=("one",))
    assert main(["export", "--checkpoint", str(folder), "--to", "hf", "--out", str(tmp_path / "out")]) == 0
    return json.loads((tmp_path / "out" / "parity.json").read_text())["max_relative_error"]


@pytest.mark.all_presets
@pytest.mark.parametrize("name", [name for name in ef_vla.PRESETS if name != "ef_vla"])
def test_every_preset_equals_its_export(name, tmp_path):
    assert error_of(ef_vla.PRESETS[name], tmp_path) <= 1e-5


@pytest.mark.all_presets
@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_no_preset_has_equal_their_export(name, tmp_path):
    assert error_of(ef_vla.PRESETS[name], tmp_path, **OPTIONS[name]) <= 1e-5


@pytest.mark.all_presets
def test_rotary_positions_that_turn_forwards_equal_their_export(tmp_path):
    preset = ef_vla.tiny(ef_vla.otter_torch(run_config().action_space))
    trunk = dataclasses.replace(preset.trunk, positions="rotary")
    assert error_of(ef_vla.otter_torch, tmp_path, trunk=trunk) <= 1e-5
