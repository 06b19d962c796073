"""DeepVision-VLA's PyTorch folder computes what the policy does: the paper's wiring, its ablations, and each reading of
what the paper leaves open.
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
from vla_jax.fusion.pruning import PruningConfig
from vla_jax.fusion.shared_attention import SharedAttentionConfig
from vla_jax.policies import deepvision_vla
from vla_jax.trained_policy import load_policy
from vla_jax.types import InputError

SPACE = relative_pose.action_space(3, "quantile")


def run_config(policy) -> RunConfig:
    data = DataConfig(root="data", mixture=tuple(MixtureEntry(name=name) for name in DATASETS))
    return RunConfig(name="tiny", policy=policy, data=data)


def tiny(preset: str = "deepvision_vla", **integration) -> RunConfig:
    config = deepvision_vla.tiny(deepvision_vla.PRESETS[preset](SPACE))
    return run_config(dataclasses.replace(config, integration=dataclasses.replace(config.integration, **integration)))


def export(config: RunConfig, folder) -> dict:
    parameters = write_parameters(folder / "parameters", config)
    out = folder / "exported"
    assert main(["export", "--checkpoint", str(parameters), "--to", "hf", "--out", str(out)]) == 0
    return json.loads((out / "parity.json").read_text())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deepvision_vla")
    export(tiny(), folder)
    return folder


def test_the_first_preset_equals_its_export(exported):
    report = json.loads((exported / "exported" / "parity.json").read_text())
    assert report["max_relative_error"] <= 1e-5
    assert report["inputs"] >= 64
    expected = ["picture_tokens/primary", "guidance", "action_tokens", "actions"]
    assert list(report["stages"]) == [*expected, "predict_action"]


def _attention(**changes) -> dict:
    return {"attention": SharedAttentionConfig(**changes)}


READINGS = {
    "aligned queries": _attention(expert_attention="aligned"),
    "aligned to the width, and queries": _attention(expert_attention="aligned", align_to="hidden"),
    "aligned to the width": _attention(align_to="hidden"),
    "norms of keys, and a bias": _attention(key_norm=True, bias_init=-4.0),
    "all tokens run, class and registers shared": {"prune_mode": "kv_only", "inject_prefix": True},
    "class and registers shared": {"inject_prefix": True},
    "keys that are not turned": {"positions": "none"},
    "positions along the patches": {"positions": "sequence", "readers": "visual_and_action"},
    "the largest head, visual columns, bicubic": {
        "pruning": PruningConfig(head_reduction="max", normalization="visual", interpolation="bicubic", ratio=0.7)
    },
    "nothing pruned, nearest": {"pruning": PruningConfig(interpolation="nearest", ratio=0.0)},
}


@pytest.mark.all_presets
@pytest.mark.parametrize("preset", list(deepvision_vla.PRESETS)[1:])
def test_the_ablations_equal_theirs(preset, tmp_path):
    assert export(tiny(preset), tmp_path)["max_relative_error"] <= 1e-5


@pytest.mark.all_presets
@pytest.mark.parametrize("reading", READINGS)
def test_the_other_readings_equal_theirs(reading, tmp_path):
    assert export(tiny(**READINGS[reading]), tmp_path)["max_relative_error"] <= 1e-5


@pytest.fixture(scope="module")
def known(exported):
    """One batch of observations and our stages for it."""
    policy = load_policy(exported / "parameters")
    needs = policy.config.policy.data_requirements()
    observation = next(parity.random_observations(needs, policy.tokenizer.vocab_size))
    stages = export_command._stages(policy.structure, policy.stored.parameters)(observation)
    return [observation], lambda observation: stages


WRONG = {
    "another reference layer": ("guidance", {"reference_layers": [1]}),
    "words that guide": ("guidance", {"guidance": "text"}),
    "all tokens run": ("action_tokens", {"prune_mode": "kv_only"}),
    "other layers of the expert": ("action_tokens", {"expert_layers": "first"}),
    "keys that are not turned": ("action_tokens", {"positions": "none"}),
    "fewer readers": ("action_tokens", {"readers": "visual_and_action"}),
}


@pytest.mark.parametrize("twin", WRONG)
def test_a_folder_that_is_wired_otherwise_is_caught(twin, exported, known, tmp_path):
    stage, change = WRONG[twin]
    folder = tmp_path / "twin"
    shutil.copytree(exported / "exported", folder)
    config = json.loads((folder / "config.json").read_text())
    config["integration"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    observations, reference = known
    with pytest.raises(InputError, match=stage):
        parity.compare(folder, reference, observations, [], bar=1e-5)


def test_a_robot_gives_one_picture_of_its_camera(exported):
    model = transformers.AutoModel.from_pretrained(exported / "exported", trust_remote_code=True)
    generator = np.random.default_rng(0)
    picture = (generator.integers(0, 256, (80, 90, 3)) * np.linspace(0.2, 1, 90)[:, None]).astype(np.uint8)
    arguments = {
        "proprio": np.array([0.3, 0.0, 0.2, 1, 0.1, 0, -0.1, 1, 0, 0.5], np.float32),
        "instruction": "put the spoon in the pot",
        "unnorm_key": DATASETS[0],
    }
    chunk = model.predict_action(images={"primary": picture}, **arguments)
    assert chunk.shape == (3, 10)
    assert np.abs(model.predict_action(images={"primary": picture[::-1].copy()}, **arguments) - chunk).max() > 1e-5


def test_what_is_exported_trains_in_torch_is_saved_and_loaded_again(exported, known, tmp_path):
    model = transformers.AutoModel.from_pretrained(exported / "exported", trust_remote_code=True)
    inputs = parity._to_torch(known[0][0])
    action = torch.randn(4, 1, 3, 10)
    model.train()
    out = model(**inputs, action=action)
    out.loss.backward()
    torch.testing.assert_close(out.loss, (out.actions - action).abs().mean())
    lacking = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    last = {name for name in lacking if name.startswith(("expert.model.layer.2.", "expert.norm."))}
    assert lacking - last == {"expert.embeddings.mask_token"}, "past the last shared keys the expert is not read"
    model.save_pretrained(tmp_path / "again")
    again = transformers.AutoModel.from_pretrained(tmp_path / "again", trust_remote_code=True).eval()
    model.eval()
    with torch.no_grad():
        np.testing.assert_array_equal(again(**inputs).actions, model(**inputs).actions)
