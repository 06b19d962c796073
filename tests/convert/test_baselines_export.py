"""OpenVLA, OpenVLA-OFT, Octo and Diffusion Policy as PyTorch folders: each equals its policy, and trains there."""

import dataclasses
import importlib
import json

import numpy as np
import pytest

from data_pipelines.action_spaces import relative_pose
from data_pipelines.config import DataConfig, MixtureEntry
from tests.convert.conftest import random_parameters, write_parameters
from vla_jax.__main__ import main
from vla_jax.config import RunConfig
from vla_jax.convert.families import diffusion_policy as table
from vla_jax.convert.parity import random_observations

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

FIRST = {
    "openvla": "openvla",
    "openvla_oft": "openvla_oft",
    "octo": "octo_small",
    "diffusion_policy": "diffusion_policy",
}
OTHERS = {"openvla_oft": ["openvla_oft_film"], "octo": ["octo_base"], "diffusion_policy": ["diffusion_policy_text"]}


def run_config(family: str, preset: str, **changes) -> RunConfig:
    module = importlib.import_module(f"vla_jax.policies.{family}")
    policy = module.tiny(module.PRESETS[preset](relative_pose.action_space(3, "none")))
    data = DataConfig(root="data", mixture=(MixtureEntry(name="one"),))
    return RunConfig(name="tiny", policy=dataclasses.replace(policy, **changes), data=data)


def export(config: RunConfig, folder, **changed):
    parameters = write_parameters(folder / "parameters", config, datasets=("one",), **changed)
    assert main(["export", "--checkpoint", str(parameters), "--to", "hf", "--out", str(folder / "out")]) == 0
    return folder / "out"


def error_of(folder) -> float:
    return json.loads((folder / "parity.json").read_text())["max_relative_error"]


@pytest.fixture(scope="module", params=sorted(FIRST))
def exported(request, tmp_path_factory):
    config = run_config(request.param, FIRST[request.param])
    return config, export(config, tmp_path_factory.mktemp(request.param))


def test_the_folder_equals_the_policy(exported):
    assert error_of(exported[1]) <= 1e-5


def test_the_loaded_model_learns_what_is_to_be_learnt(exported):
    """Its loss is finite, falls, and reaches everything that is not frozen."""
    config, folder = exported
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True).train()
    seen = next(random_observations(config.policy.data_requirements(), 300))
    inputs = {
        "images": {slot: torch.from_numpy(np.array(images)) for slot, images in seen.images.items()},
        "image_masks": {slot: torch.from_numpy(np.array(mask)) for slot, mask in seen.image_masks.items()},
        "proprio": torch.from_numpy(np.array(seen.proprio)),
        "timestep_mask": torch.from_numpy(np.array(seen.timestep_mask)),
        "input_ids": torch.from_numpy(np.array(seen.instruction_tokens)).long(),
        "attention_mask": torch.from_numpy(np.array(seen.instruction_mask)),
    }
    action = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (4, seen.timestep_mask.shape[1], 3, 10))).float()
    mask = torch.ones_like(action, dtype=torch.bool)
    mask[1, :, 1:] = False
    optimizer, losses = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3), []
    for _ in range(8):
        torch.manual_seed(0)  # the noise is the same
        optimizer.zero_grad()
        losses.append(model(**inputs, action=action.masked_fill(~mask, 5.0), action_mask=mask).loss)
        losses[-1].backward()
        optimizer.step()
    assert torch.isfinite(torch.stack(losses)).all()
    assert losses[-1] < 0.97 * losses[0]
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not [name for name in without if ".blocks." not in name], "but for the towers' last blocks, all is reached"


def test_octo_s_own_sampler_equals_its_export(tmp_path):
    """DDPM, whose first step multiplies by 32: with a denoiser that says little, so that it does not show rounding."""
    tiny = run_config("octo", "octo_small").policy
    head = dataclasses.replace(tiny.head, sampler="ddpm", num_sampling_steps=None)
    config = run_config("octo", "octo_small", head=head)
    out = "head/denoiser/out/kernel"
    assert error_of(export(config, tmp_path, **{out: 0.05 * random_parameters(config)[out]})) <= 1e-5


def test_swapped_convolutions_of_the_u_net_are_caught(tmp_path, capsys, monkeypatch):
    def swap(rule):
        first, second = ".blocks.0.", ".blocks.1."
        if not rule.disk.startswith("action_head.mid_modules.0.blocks"):
            return rule
        disk = rule.disk.replace(*((first, second) if first in rule.disk else (second, first)))
        return dataclasses.replace(rule, disk=disk)

    swapped = [swap(rule) for rule in table.FAMILY.rules]
    monkeypatch.setattr(table, "FAMILY", dataclasses.replace(table.FAMILY, rules=tuple(swapped)))
    parameters = write_parameters(
        tmp_path / "parameters", run_config("diffusion_policy", "diffusion_policy"), datasets=("one",)
    )
    assert main(["export", "--checkpoint", str(parameters), "--to", "hf", "--out", str(tmp_path / "out")]) == 2
    assert "differ at 'actions'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.all_presets
@pytest.mark.parametrize(("family", "preset"), [(family, name) for family, names in OTHERS.items() for name in names])
def test_other_presets_equal_their_export(family, preset, tmp_path):
    assert error_of(export(run_config(family, preset), tmp_path)) <= 1e-5


@pytest.mark.all_presets
def test_openvla_oft_of_one_camera_without_proprio_equals_its_export(tmp_path):
    config = run_config("openvla_oft", "openvla_oft", cameras=("primary",), reads_proprio=False)
    assert error_of(export(config, tmp_path)) <= 1e-5
