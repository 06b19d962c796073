"""DFA-VLA's PyTorch folder computes what the policy computes: every model, and every reading of what the paper leaves
open.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import transformers

from data_pipelines.action_spaces import relative_pose
from data_pipelines.config import DataConfig, MixtureEntry
from tests.convert.conftest import DATASETS, write_parameters
from vla_jax.__main__ import main
from vla_jax.commands import export as export_command
from vla_jax.config import RunConfig
from vla_jax.convert import parity
from vla_jax.convert.safetensors_folder import SafetensorsFolder
from vla_jax.encoders.frame_stack import DepthConfig
from vla_jax.fusion.contrast import ContrastConfig
from vla_jax.fusion.dfaf import DfafConfig, GateConfig
from vla_jax.fusion.elementwise import ElementwiseConfig
from vla_jax.lazy_tensor import of_array
from vla_jax.policies import dfa_vla
from vla_jax.tensor_file import write_tensor_file
from vla_jax.trained_policy import load_policy
from vla_jax.types import InputError

SPACE = relative_pose.action_space(3, "quantile")


def run_config(preset=dfa_vla.dfa_vla, **changes) -> RunConfig:
    policy = dataclasses.replace(dfa_vla.tiny(preset(SPACE)), **changes)
    data = DataConfig(root="data", mixture=tuple(MixtureEntry(name=name) for name in DATASETS))
    return RunConfig(name="tiny", policy=policy, data=data)


def dfaf(**changes) -> DfafConfig:
    return DfafConfig(num_selected=3, **changes)


CASES = {
    "model 1": run_config(dfa_vla.dfa_model1),
    "model 2": run_config(dfa_vla.dfa_model2),
    "model 3": run_config(dfa_vla.dfa_model3),
    "model 4": run_config(dfa_vla.dfa_model4),
    "model 1, its map beside the sum": run_config(
        dfa_vla.dfa_model1, elementwise=ElementwiseConfig(width=18, operation="add", keep_map=True)
    ),
    "model 5 from scratch": RunConfig(
        name="scratch", policy=dfa_vla.tiny(dfa_vla.dfa_vla_scratch(SPACE)), data=run_config().data
    ),
    "vector gate, words by a query, all in place, vision first": run_config(
        dfaf=dfaf(gate=GateConfig(kind="vector"), text_reduce="attention", selection="in_place"),
        order="vision_first",
        attention="causal",
        contrast=ContrastConfig(positive="self", learn_temperature=True),
    ),
    "perceptron gate, each word its own, each block": run_config(
        dfaf=dfaf(gate=GateConfig(kind="mlp", hidden_width=14), text_reduce="mean", selection="per_token"),
        applied="each_block",
        candidates="hidden",
        attention="mutual",
        frames="mean",
    ),
    "no alpha, F alone, features resized, all frames' tokens": run_config(
        dfaf=dfaf(gate=GateConfig(kind="sum")),
        sequence="fused_only",
        grid_mode="feature_resize",
        frames="concatenate",
        head=dataclasses.replace(run_config().policy.head, bins=6),
    ),
    "the mean of Y": run_config(
        grid_mode="native", num_frames=1, head=dataclasses.replace(run_config().policy.head, reader="mean")
    ),
}


def export(config: RunConfig, folder) -> dict:
    parameters = write_parameters(folder / "parameters", config)
    out = folder / "exported"
    assert main(["export", "--checkpoint", str(parameters), "--to", "hf", "--out", str(out)]) == 0
    return json.loads((out / "parity.json").read_text())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The first preset, with depth."""
    folder = tmp_path_factory.mktemp("dfa_vla")
    export(run_config(depth=DepthConfig()), folder)
    return folder


def test_the_first_preset_equals_its_export_with_depth(exported):
    report = json.loads((exported / "exported" / "parity.json").read_text())
    assert report["max_relative_error"] <= 1e-5
    assert report["inputs"] >= 64
    expected = ["features", "visual_tokens", "text_states", "probabilities", "fused_tokens", "hidden", "actions"]
    assert list(report["stages"]) == [*expected, "predict_action"]


@pytest.mark.all_presets
@pytest.mark.parametrize("case", list(CASES))
def test_the_other_models_and_readings_equal_theirs(case, tmp_path):
    assert export(CASES[case], tmp_path)["max_relative_error"] <= 1e-5


@pytest.fixture(scope="module")
def known(exported):
    """Two batches of observations and our stages for them."""
    policy = load_policy(exported / "parameters")
    needs = policy.config.policy.data_requirements()
    observations = list(parity.random_observations(needs, policy.tokenizer.vocab_size))[:2]
    stages = export_command._stages(policy.structure, policy.stored.parameters)
    results = iter([stages(observation) for observation in observations] * 50)
    return observations, lambda observation: next(results)


def compare(folder, known):
    observations, reference = known
    return parity.compare(folder, reference, observations, [], bar=1e-5)


WRONG = {
    "another choice": ("fused_tokens", lambda c: c["dfaf"].update(num_selected=2)),
    "another reduction over words": ("probabilities", lambda c: c["dfaf"].update(text_reduce="mean")),
    "words that look back alone": ("text_states", lambda c: c.update(attention="causal")),
    "a gate that is constant": ("fused_tokens", lambda c: c["dfaf"]["gate"].update(kind="constant")),
    "boxes cut otherwise": ("visual_tokens", lambda c: c["mvsm"].update(roi_size=1)),
    "later blocks that look ahead": ("hidden", lambda c: c.update(attention="mutual")),
    "another place for the choice": ("text_states", lambda c: c.update(prefix_layers=2)),
    "another scale of depth": ("features", lambda c: c["depth"].update(max_metres=1.0)),
}


@pytest.mark.parametrize("twin", list(WRONG))
def test_a_folder_that_is_wired_otherwise_is_caught(twin, exported, known, tmp_path):
    stage, change = WRONG[twin]
    folder = tmp_path / "twin"
    shutil.copytree(exported / "exported", folder)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    if twin == "a gate that is constant":
        weights = SafetensorsFolder(folder)
        kept = {name: of_array(weights.read(name)) for name in weights.names() if not name.startswith("dfaf.gate.")}
        write_tensor_file(folder / "model.safetensors", kept)
    with pytest.raises(InputError, match=stage):
        compare(folder, known)


def test_a_robot_needs_no_boxes_and_may_give_some(exported):
    model = transformers.AutoModel.from_pretrained(exported / "exported", trust_remote_code=True)
    generator = np.random.default_rng(0)
    slope = np.linspace(0.2, 1, 60)[:, None]
    arguments = {
        "images": {"primary": (generator.integers(0, 256, (40, 60, 3)) * slope).astype(np.uint8)},
        "proprio": np.array([0.3, 0.0, 0.2, 1, 0.1, 0, -0.1, 1, 0, 0.5], np.float32),
        "instruction": "put the spoon in the pot",
        "unnorm_key": DATASETS[0],
    }
    grid = model.predict_action(**arguments)
    squares = model.predict_action(**arguments, boxes=dfa_vla.grid_boxes(5))
    others = model.predict_action(**arguments, boxes=np.array([[0.1, 0.2, 0.9, 0.7], [0.5, 0.5, 0.9, 0.8]]))
    assert grid.shape == (3, 10)
    np.testing.assert_array_equal(grid, squares)
    assert np.abs(others - grid).max() > 1e-5


def test_what_is_exported_trains_in_torch(exported):
    model = transformers.AutoModel.from_pretrained(exported / "exported", trust_remote_code=True)
    policy = load_policy(exported / "parameters")
    observation = next(parity.random_observations(policy.config.policy.data_requirements(), 300))
    action = torch.randn(4, 3, 3, 10)
    mask = torch.ones_like(action, dtype=torch.bool)
    mask[0] = False
    out = model(**parity._to_torch(observation), action=action, action_mask=mask)
    out.loss.backward()
    error = torch.nn.functional.huber_loss(out.actions[1:], action[1:, -1:])
    torch.testing.assert_close(out.loss, error)
    lacking = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert lacking == {"encoder.embeddings.mask_token"}
