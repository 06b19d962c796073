"""`export --to peft`: what PEFT makes of our adapter, by itself and merged, is what we compute.

Axes: b batch, d width; i in, o out.
"""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from flax import nnx
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from data_pipelines.transforms.resize import Resize
from tests.convert.conftest import random_parameters, random_statistics, run_config
from vla_jax import config as configuration
from vla_jax import parameters as parameter_paths
from vla_jax.__main__ import main
from vla_jax.convert.export import Adapters
from vla_jax.convert.rules import DiskTensor
from vla_jax.convert.safetensors_folder import SafetensorsFolder
from vla_jax.convert.targets.peft import write_adapter
from vla_jax.nn.lora import LoraConfig
from vla_jax.parameter_store import save_parameters
from vla_jax.trained_policy import load_policy
from vla_jax.types import InputError, Observation

LORA = LoraConfig(
    targets=("clip/.*/attention/(query|value)", "clip/vision/.*/mlp/up", "trunk/blocks/attention/out"),
    rank=3,
    alpha=7.0,
    trained=("head/.*", "proprio/.*", "fusion/.*", "trunk_norm/.*", "trunk/blocks/mlp/down/.*"),
)


def write_adapted(folder, lora=LORA):
    """A parameter folder of the tiny EF-VLA with random adapters: no zeros, which would add nothing."""
    config = dataclasses.replace(run_config(), lora=lora)
    shapes = parameter_paths.abstract(lambda: config.build_policy(nnx.Rngs(0))).shapes()
    generator, base = np.random.default_rng(1), random_parameters(config)
    drawn = {p: generator.normal(size=s.shape).astype(np.float32) / 4 for p, s in shapes.items() if p not in base}
    documents = {"config.json": configuration.to_json(config), "dataset_statistics.json": random_statistics()}
    save_parameters(folder, base | drawn, documents=documents)
    return folder


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    return write_adapted(tmp_path_factory.mktemp("adapted") / "run")


@pytest.fixture(scope="module")
def exported(adapted, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "peft"
    assert main(["export", "--checkpoint", str(adapted), "--to", "peft", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def merged(adapted, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "merged"
    assert main(["export", "--checkpoint", str(adapted), "--to", "hf", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def expected(adapted, observation):
    """What we compute with the adapters apart, in real units."""
    policy = load_policy(adapted)
    config = policy.config
    structure = parameter_paths.abstract(lambda: config.build_policy(nnx.Rngs(0)))
    ours = jax.tree.map(jnp.asarray, seen_by(policy, **observation))
    chunk = jax.jit(lambda parameters, seen: structure.merge(parameters).act(seen))(policy.with_adapters(), ours)
    return policy.normalizer("action", observation["unnorm_key"]).inverse(np.asarray(chunk))[0]


def seen_by(policy, images, proprio, instruction, unnorm_key):
    """The observation as our own pipeline makes it ready."""
    cameras = policy.config.policy.data_requirements().cameras
    tokens, mask = policy.tokenizer([instruction])
    return Observation(
        images={c.slot: Resize(c.height, c.width)(images[c.slot])[None, None] for c in cameras},
        image_masks={c.slot: np.ones((1, 1), bool) for c in cameras},
        proprio=policy.normalizer("proprio", unnorm_key)(proprio)[None, None],
        timestep_mask=np.ones((1, 1), bool),
        instruction_tokens=tokens,
        instruction_mask=mask,
    )


def load_base(folder):
    return AutoModel.from_pretrained(folder, trust_remote_code=True).eval()


def with_adapter(folder, adapter):
    return peft.PeftModel.from_pretrained(load_base(folder), adapter).eval()


def relative_error(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_peft_computes_what_the_adapted_policy_computes(exported, expected, observation):
    found = with_adapter(exported, exported / "adapter").predict_action(**observation)
    assert relative_error(found, expected) < 1e-5
    report = json.loads((exported / "parity.json").read_text())
    assert report["max_relative_error"] < 1e-5
    bare = load_base(exported).predict_action(**observation)
    assert relative_error(bare, expected) > 1e-2, "the adapter adds nothing"


@pytest.mark.parametrize("change", [{"lora_alpha": 3.0}, {"use_rslora": True}])  # alpha / r left out; alpha / sqrt(r)
def test_an_adapter_of_another_scale_fails(exported, expected, observation, tmp_path, change):
    twin = copy_of(exported / "adapter", tmp_path / "twin")
    config = json.loads((twin / "adapter_config.json").read_text())
    config |= change
    (twin / "adapter_config.json").write_text(json.dumps(config))
    assert relative_error(with_adapter(exported, twin).predict_action(**observation), expected) > 1e-3


def test_an_adapter_of_values_on_queries_fails(exported, expected, observation, tmp_path):
    twin = copy_of(exported / "adapter", tmp_path / "twin")
    swapped = {"q_proj": "v_proj", "v_proj": "q_proj"}
    tensors = {
        re.sub("q_proj|v_proj", lambda found: swapped[found[0]], name): tensor
        for name, tensor in load_file(twin / "adapter_model.safetensors").items()
    }
    save_file(tensors, twin / "adapter_model.safetensors")
    assert relative_error(with_adapter(exported, twin).predict_action(**observation), expected) > 1e-3


def test_merging_in_peft_gives_our_merged_export(exported, merged):
    theirs = with_adapter(exported, exported / "adapter").merge_and_unload().state_dict()
    ours = SafetensorsFolder(merged)
    assert set(theirs) == set(ours.names())
    for name in ours.names():
        array = ours.read(name)
        np.testing.assert_allclose(theirs[name].numpy(), array, atol=1e-5 * np.abs(array).max(), err_msg=name)
    assert not np.array_equal(SafetensorsFolder(exported).read(ADAPTED_NAME), ours.read(ADAPTED_NAME))


def test_the_card_says_that_the_adapter_belongs_to_it(exported, merged):
    """The code of the card gives the policy, not the base model."""
    said = 'peft.PeftModel.from_pretrained(model, "THIS_FOLDER/adapter")'
    assert said in (exported / "README.md").read_text()
    assert "peft.PeftModel" not in (merged / "README.md").read_text()


ADAPTED_NAME = "clip.text_model.encoder.layers.0.self_attn.q_proj.weight"


def test_names_and_shapes_are_those_that_peft_itself_would_save(exported, tmp_path):
    model = with_adapter(exported, exported / "adapter")
    model.save_pretrained(tmp_path / "saved")
    theirs = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    ours = load_file(exported / "adapter" / "adapter_model.safetensors")
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in theirs.items()}
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert {name for name in ours if "lora" not in name} >= {
        f"base_model.model.{name}" for name in ("action_head.out.weight", "fusion.primary.log_scale", "trunk_norm.bias")
    }


def test_what_trained_in_full_comes_from_the_adapter(exported, expected, observation, tmp_path):
    """On a base of another head, as the model that the run began with has it."""
    base = copy_of(exported, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    changed = [name for name in weights if name.startswith(("action_head.out", "fusion.", "trunk_norm"))]
    assert len(changed) > 4
    weights |= {name: torch.zeros_like(weights[name]) for name in changed}
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert relative_error(with_adapter(base, exported / "adapter").predict_action(**observation), expected) < 1e-5
    assert relative_error(load_base(base).predict_action(**observation), expected) > 0.1


def test_a_run_without_adapters_has_none_to_export(parameter_folder, tmp_path, capsys):
    assert main(["export", "--checkpoint", str(parameter_folder), "--to", "peft", "--out", str(tmp_path / "out")]) == 2
    assert "was trained without adapters (lora); `--to hf` exports the merged model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def copy_of(folder, target):
    target.mkdir(parents=True)
    for file in folder.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            into = target / file.relative_to(folder)
            into.parent.mkdir(parents=True, exist_ok=True)
            into.write_bytes(file.read_bytes())
    return target


class Fused(torch.nn.Module):
    def __init__(self, i, sizes):
        super().__init__()
        self.qkv = torch.nn.Linear(i, sum(sizes), bias=False)

    def forward(self, x):
        return self.qkv(x)


@pytest.mark.parametrize("adapted", [("query", "key", "value"), ("query", "value")])
def test_kernels_that_are_one_tensor_in_torch_have_one_adapter_there(tmp_path, adapted):
    generator, i, sizes, rank, alpha = np.random.default_rng(0), 6, (8, 4, 5), 2, 5.0
    names = ("query", "key", "value")
    parameters = {f"{n}/kernel": generator.normal(size=(i, o)) for n, o in zip(names, sizes)}
    parameters |= {f"{n}/lora_a": generator.normal(size=(i, rank)) for n in adapted}
    parameters |= {f"{n}/lora_b": generator.normal(size=(rank, o)) for n, o in zip(names, sizes) if n in adapted}
    parameters = {path: array.astype(np.float32) for path, array in parameters.items()}
    tensor = DiskTensor(
        name="qkv.weight",
        shapes=tuple((o, i) for o in sizes),
        dtype=np.dtype(np.float32),
        layout="transpose",
        targets=tuple((f"{n}/kernel", None) for n in names),
    )
    write_adapter(tmp_path / "a", [tensor], _adapters(parameters, rank=rank, alpha=alpha))
    base = Fused(i, sizes)
    base.qkv.weight.data = torch.from_numpy(tensor.to_disk([parameters[f"{n}/kernel"] for n in names]).copy())
    model, x = peft.PeftModel.from_pretrained(base, tmp_path / "a"), generator.normal(size=(3, i)).astype(np.float32)
    with torch.no_grad():
        found = model(torch.from_numpy(x)).numpy()
    merged = LoraConfig(targets=("q",), rank=rank, alpha=alpha).merge(parameters)
    expected = x @ np.concatenate([merged[f"{n}/kernel"] for n in names], axis=1)
    assert relative_error(found, expected) < 1e-5


def _adapters(parameters, *, rank=2, alpha=5.0, trained=()):
    return Adapters(rank=rank, alpha=alpha, parameters=parameters, trained=frozenset(trained))


def _tensor(name, path, shape=(4, 6), layout="transpose"):
    return DiskTensor(name=name, shapes=(shape,), dtype=np.dtype(np.float32), layout=layout, targets=((path, None),))


@pytest.mark.parametrize(
    ("tensors", "trained", "message"),
    [
        ([_tensor("a.conv", "a/kernel")], (), "no linear layer's weight"),
        ([_tensor("a.weight", "a/kernel", layout="copy")], (), "no linear layer's weight"),
        ([_tensor("a.weight", "a/kernel"), _tensor("scale", "scale")], ("scale",), "belong to no module"),
        ([_tensor("m.a.weight", "a/kernel"), _tensor("m.scale", "scale")], ("scale",), "adapted inside modules"),
        (
            [_tensor("a.weight", "a/kernel"), _tensor("head.bias", "scale"), _tensor("x.head.bias", "other")],
            ("scale",),
            r"PEFT would take \['x.head'\] for it",
        ),
    ],
)
def test_what_no_adapter_can_say_is_refused(tmp_path, tensors, trained, message):
    parameters = {"a/kernel": np.ones((6, 4), np.float32), "scale": np.ones(3, np.float32)}
    parameters |= {"a/lora_a": np.ones((6, 2), np.float32), "a/lora_b": np.ones((2, 4), np.float32)}
    with pytest.raises(InputError, match=message):
        write_adapter(tmp_path / "a", tensors, _adapters(parameters, trained=trained))
    assert not (tmp_path / "a").exists()
