"""The configuration's JSON round trip: exact, strict, and unable to name foreign code."""

import dataclasses
import json
from pathlib import Path

import pytest

from vla_jax import config as run_config
from vla_jax import recipe
from vla_jax.types import InputError

RECIPES = [
    f"configs/{name}.py{variant}"
    for name, variants in {
        "ef_vla_bridge": (
            *("", ":tiny", ":b16", ":b32", ":large", ":lora", ":tiny_lora", ":full", ":otter_jax", ":otter_torch"),
            *(":lf_vla", ":lf_vla_cls", ":xattn", ":wo_clip_vision", ":wo_fe", ":wo_fl", ":ft_clip"),
        ),
        "ef_vla_oxe": ("", ":tiny", ":large", ":magic_soup", ":otter_jax", ":otter_torch", ":lf_vla"),
        "dfa_vla_oxe": (
            *("", ":tiny", ":tiny_lora", ":model1", ":model2", ":model3", ":model4"),
            *(":representation", ":finetune_lora", ":finetune_full"),
        ),
        "dfa_vla_sweep": ("", ":tiny", ":lambda1_2_0", ":resolution_512", ":top_10", ":gate_0", ":tiny_gate_1"),
        "tabletop_dfa_vla": ("", ":tiny", ":model1", ":model2", ":model3", ":model4"),
        "tabletop_ef_vla": ("", ":tiny"),
    }.items()
    for variant in variants
]


@pytest.fixture(scope="module")
def config():
    return recipe.load("configs/ef_vla_bridge.py:tiny")


@pytest.mark.parametrize("name", RECIPES)
def test_json_round_trip_is_exact(name, tmp_path):
    config = recipe.load(name)
    run_config.save(config, tmp_path / "config.json")
    assert run_config.load(tmp_path / "config.json") == config


def test_every_recipe_file_is_listed_here():
    files = {path.stem for path in Path("configs").glob("*.py")} - {"__init__"}
    assert files == {name.split("/")[1].split(".")[0] for name in RECIPES}


@pytest.mark.parametrize("name", [name for name in RECIPES if "tiny" not in name])
def test_full_recipes_refuse_random_frozen_weights(name):
    assert not recipe.load(name).allow_random_frozen


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema_version",), 99, "schema_version"),
        (("surprise",), 1, "unknown keys"),
        (("policy", "type"), "os:system", "not one of this project's"),
        (("policy", "type"), "vla_jax.config:RunConfig", "is not a"),
        (("policy", "type"), "vla_jax.policies.ef_vla:Missing", "does not exist"),
        (("num_steps",), "many", "num_steps"),
        (("compute_dtype",), "float8", "compute_dtype"),
        (("optimizer", "peak_rate"), None, "peak_rate"),
        (("policy", "cameras"), 3, "cameras"),
    ],
)
def test_what_does_not_fit_is_refused(config, path, value, message):
    tree = json.loads(json.dumps(run_config.to_json(config)))
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(InputError, match=message):
        run_config.from_json(tree)


def test_a_missing_key_is_refused(config):
    tree = run_config.to_json(config)
    del tree["seed"]
    with pytest.raises(InputError, match="seed"):
        run_config.from_json(tree)


def test_resume_allows_only_what_leaves_the_training_the_same(config):
    longer = dataclasses.replace(config, num_steps=7, log_every=3, mesh=dataclasses.replace(config.mesh, fsdp=2))
    longer = dataclasses.replace(longer, data=dataclasses.replace(config.data, root="elsewhere", max_bad_share=0.5))
    assert run_config.changes_that_forbid_resume(config, longer) == []
    other = dataclasses.replace(config, seed=7, optimizer=dataclasses.replace(config.optimizer, peak_rate=1.0))
    changes = run_config.changes_that_forbid_resume(config, other)
    assert [change.split(":")[0] for change in changes] == ["optimizer.peak_rate", "seed"]


def test_pretrained_text_needs_its_vocabulary(config):
    policy = dataclasses.replace(config.policy, clip_weights="clip_folder")
    with pytest.raises(InputError, match=r"tokenizer\.path"):
        dataclasses.replace(config, policy=policy)


def test_nonsense_counts_are_refused(config):
    with pytest.raises(InputError, match="batch_size=0"):
        dataclasses.replace(config, batch_size=0)
