"""The configuration's JSON round trip: exact, strict, and unable to name foreign code."""

import dataclasses
import importlib
import inspect
import json

import pytest

from tests.conftest import ROOT
from vla_jax import config as run_config
from vla_jax import recipe
from vla_jax.types import InputError


def variants(file: str) -> list[str]:
    """Names of what a recipe file offers: its functions that take nothing and give a RunConfig."""
    module = importlib.import_module(f"configs.{file}")
    own = {name: item for name, item in vars(module).items() if not name.startswith("_") and inspect.isfunction(item)}
    return [
        "" if name == "get_config" else f":{name}"
        for name, function in own.items()
        if function.__module__ == module.__name__ and not inspect.signature(function).parameters
    ]


RECIPES = [
    f"configs/{file.stem}.py{variant}"
    for file in sorted((ROOT / "configs").glob("[!_]*.py"))
    for variant in variants(file.stem)
]
SWEEP = [f"configs/dfa_vla_sweep.py:{name}" for name in ("lambda1_2_0", "resolution_512", "top_10", "gate_0")]


@pytest.fixture(scope="module")
def config():
    return recipe.load("configs/ef_vla_bridge.py:tiny")


@pytest.mark.parametrize("name", RECIPES + SWEEP)
def test_json_round_trip_is_exact(name, tmp_path):
    config = recipe.load(name)
    run_config.save(config, tmp_path / "config.json")
    assert run_config.load(tmp_path / "config.json") == config


def test_every_recipe_file_has_a_whole_one_and_a_tiny_one():
    for file in (ROOT / "configs").glob("[!_]*.py"):
        assert {"", ":tiny"} <= set(variants(file.stem)), file


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
