"""`export --to otter`: EF-VLA under the names of its published PyTorch code."""

import json

import numpy as np
import pytest

from tests.convert.conftest import run_config, write_parameters
from vla_jax.__main__ import main
from vla_jax.convert.safetensors_folder import SafetensorsFolder
from vla_jax.convert.targets import otter
from vla_jax.encoders.clip_features import ClipTokens
from vla_jax.policies import ef_vla

CAMERAS = ("wrist", "primary")
"""Not in the order of their names, in which that code counts them."""


def both(prefix: str) -> set[str]:
    return {f"{prefix}.weight", f"{prefix}.bias"}


def joined(prefix: str, *names: str) -> set[str]:
    return {name for part in names for name in both(f"{prefix}.{part}")}


def published_names() -> set[str]:
    """`OTTER.state_dict()` of the tiny twin's sizes, written down from that code and OpenAI's CLIP."""
    names = {f"clip_model.{name}" for name in ("positional_embedding", "text_projection", "logit_scale")}
    names |= {"clip_model.token_embedding.weight", *both("clip_model.ln_final")}
    names |= {f"clip_model.visual.{name}" for name in ("class_embedding", "positional_embedding", "proj")}
    names |= {"clip_model.visual.conv1.weight", *joined("clip_model.visual", "ln_pre", "ln_post")}
    for tower, layers in (("clip_model", 2), ("clip_model.visual", 3)):
        for layer in range(layers):
            block = f"{tower}.transformer.resblocks.{layer}"
            names |= joined(block, "attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")
            names |= {f"{block}.attn.in_proj_weight", f"{block}.attn.in_proj_bias"}
    for pooling in ("text_pooling", "vision_poolings.0", "vision_poolings.1"):
        names |= {f"{pooling}.query", *both(f"{pooling}.layer_norm")}
        for layer in range(2):
            block = f"{pooling}.blocks.{layer}"
            names |= joined(block, "attention.out_proj", "mlp.fc1", "mlp.fc2", "q_layer_norm", "layer_norm")
            names |= {f"{block}.attention.{name}_proj_weight" for name in "qkv"} | {f"{block}.attention.in_proj_bias"}
    for camera in range(2):
        names |= {f"visual_extraction.{camera}.{name}" for name in ("temperature", "pos_emb")}
    for layer in range(4):
        block = f"policy.layers.{layer}"
        names |= joined(block, *(f"attention.{name}" for name in ("query", "key", "value", "out")))
        names |= joined(block, "intermediate", "output", "layernorm1", "layernorm2")
        names |= {f"{block}.attention.rope.{name}" for name in ("inv_freq", "emb")}
    names |= joined("proprio_encoder.mlp", "0", "2", "4")
    return names | joined("action_head.mlp", "0", "2") | both("input_projection")


@pytest.fixture(scope="module")
def parameters(tmp_path_factory):
    config = run_config(ef_vla.otter_torch, "none", cameras=CAMERAS, text_mask="words")
    return write_parameters(tmp_path_factory.mktemp("parameters") / "otter", config, datasets=("one",))


def export(folder, out) -> int:
    return main(["export", "--checkpoint", str(folder), "--to", "otter", "--out", str(out)])


def test_it_has_the_published_names_and_equals_the_policy(parameters, tmp_path):
    out = tmp_path / "out"
    assert export(parameters, out) == 0
    assert json.loads((out / "parity.json").read_text())["max_relative_error"] <= 1e-5
    weights = SafetensorsFolder(out)
    assert set(weights.names()) == published_names()
    arguments = json.loads((out / "otter.json").read_text())
    assert arguments["shared"]["camera_keys"] == ["image_primary", "image_wrist"]
    assert arguments["model"]["transformer_dim"] == weights.read("input_projection.weight").shape[0]
    assert weights.read("vision_poolings.0.query").shape[0] == 1


def test_the_step_token_in_our_order_is_caught(parameters, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(otter, "_columns", lambda settings: np.arange(8 + 2 * 32 + 16))
    assert export(parameters, tmp_path / "out") == 2
    assert "differ at 'trunk_output'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("preset", "changes", "named"),
    [
        (ef_vla.ef_vla, {}, "clip_features.padding"),
        (ef_vla.otter_jax, {}, "fusion.temperature"),
        (ef_vla.otter_torch, {"clip_features": ClipTokens(padding="zero", last_attention="qq")}, "last_attention"),
        (ef_vla.otter_torch, {"proprio": None}, "proprio.hidden_widths"),
    ],
)
def test_what_that_code_does_not_compute_is_refused(preset, changes, named, tmp_path, capsys):
    folder = write_parameters(tmp_path / "parameters", run_config(preset, **changes))
    assert export(folder, tmp_path / "out") == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
