"""QwenVLA-OFT's PyTorch folder computes what the policy computes, and one that is wired otherwise is caught."""

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
from vla_jax.actions.token_regression import TokenRegressionConfig
from vla_jax.commands import export as export_command
from vla_jax.config import RunConfig
from vla_jax.convert import parity
from vla_jax.policies import qwenvla_oft
from vla_jax.trained_policy import load_policy
from vla_jax.types import InputError

SPACE = relative_pose.action_space(3, "quantile")


def run_config(policy) -> RunConfig:
    data = DataConfig(root="data", mixture=tuple(MixtureEntry(name=name) for name in DATASETS))
    return RunConfig(name="tiny", policy=policy, data=data)


def tiny(**reader) -> RunConfig:
    config = qwenvla_oft.tiny(qwenvla_oft.qwenvla_oft(SPACE))
    return run_config(dataclasses.replace(config, reader=dataclasses.replace(config.reader, **reader)))


def export(config: RunConfig, folder) -> dict:
    parameters = write_parameters(folder / "parameters", config)
    out = folder / "exported"
    assert main(["export", "--checkpoint", str(parameters), "--to", "hf", "--out", str(out)]) == 0
    return json.loads((out / "parity.json").read_text())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """With two cameras and proprio."""
    folder = tmp_path_factory.mktemp("qwenvla_oft")
    export(tiny(cameras=("primary", "wrist"), reads_proprio=True), folder)
    return folder


def test_the_preset_equals_its_export(exported):
    report = json.loads((exported / "exported" / "parity.json").read_text())
    assert report["max_relative_error"] <= 1e-5
    assert report["inputs"] >= 64
    expected = ["picture_tokens/primary", "picture_tokens/wrist", "action_tokens", "actions"]
    assert list(report["stages"]) == [*expected, "predict_action"]


CASES = {
    "without DeepStack": lambda: tiny(deepstack=False),
    "causal": lambda: tiny(sequence=dataclasses.replace(tiny().policy.reader.sequence, bidirectional=False)),
    "from scratch": lambda: run_config(qwenvla_oft.qwenvla_oft_scratch(SPACE, width=32, num_layers=2)),
    "a token a dimension": lambda: run_config(
        dataclasses.replace(tiny().policy, head=TokenRegressionConfig(token="dimension"))
    ),
}


@pytest.mark.all_presets
@pytest.mark.parametrize("case", CASES)
def test_the_other_readings_equal_theirs(case, tmp_path):
    assert export(CASES[case](), tmp_path)["max_relative_error"] <= 1e-5


@pytest.fixture(scope="module")
def known(exported):
    """One batch of observations and our stages for it."""
    policy = load_policy(exported / "parameters")
    needs = policy.config.policy.data_requirements()
    observation = next(parity.random_observations(needs, policy.tokenizer.vocab_size))
    stages = export_command._stages(policy.structure, policy.stored.parameters)(observation)
    return [observation], lambda observation: stages


WRONG = {
    "a causal mask": ("action_tokens", lambda c: c["reader"]["sequence"].update(bidirectional=False)),
    "no DeepStack": ("action_tokens", lambda c: c["reader"].update(deepstack=False)),
    "another turn": ("action_tokens", lambda c: c["reader"]["sequence"].update(after=[9, 8, 7])),
    "another frequency": ("action_tokens", lambda c: c["vlm"]["language"]["decoder"].update(theta=1e4)),
    "other sections": ("action_tokens", lambda c: c["vlm"]["language"].update(sections=[9, 1, 1])),
    "other pictures": ("picture_tokens", lambda c: c["vlm"]["vision"]["vit"].update(mean=[0.4, 0.5, 0.5])),
}


@pytest.mark.parametrize("twin", WRONG)
def test_a_folder_that_is_wired_otherwise_is_caught(twin, exported, known, tmp_path):
    stage, change = WRONG[twin]
    folder = tmp_path / "twin"
    shutil.copytree(exported / "exported", folder)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    observations, reference = known
    with pytest.raises(InputError, match=stage):
        parity.compare(folder, reference, observations, [], bar=1e-5)


def test_what_is_exported_trains_in_torch_is_saved_and_loaded_again(exported, known, tmp_path):
    model = transformers.AutoModel.from_pretrained(exported / "exported", trust_remote_code=True)
    inputs = parity._to_torch(known[0][0])
    action = torch.randn(4, 1, 3, 10)
    out = model(**inputs, action=action)
    out.loss.backward()
    torch.testing.assert_close(out.loss, (out.actions - action).abs().mean())
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    model.save_pretrained(tmp_path / "again")
    again = transformers.AutoModel.from_pretrained(tmp_path / "again", trust_remote_code=True)
    with torch.no_grad():
        np.testing.assert_array_equal(again(**inputs).actions, out.actions.detach())
