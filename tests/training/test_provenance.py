"""What binds the later starts of a run: its configuration once it has trained, and its vocabulary."""

import dataclasses
import json
import re
import shutil

import pytest

from vla_jax import config as configuration
from vla_jax import recipe
from vla_jax.config import TokenizerConfig
from vla_jax.run_directory import RunDirectory
from vla_jax.training import provenance
from vla_jax.types import InputError


@pytest.fixture(scope="module")
def config():
    return recipe.load("configs/ef_vla_bridge.py:tiny")


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    return run


@pytest.fixture
def source(tmp_path):
    """What a fine-tune starts from, as far as its vocabulary goes."""
    TokenizerConfig(vocab_size=300).build(16).save(tmp_path / "source" / "tokenizer")
    return tmp_path / "source"


@pytest.mark.parametrize(("folder", "binds"), [(None, False), ("5.tmp", False), ("5", True), ("5.damaged", True)])
def test_a_configuration_binds_from_the_first_checkpoint_on(run, config, folder, binds):
    configuration.save(config, run.config)
    if folder:
        (run.checkpoints / folder).mkdir(parents=True)
    changed = dataclasses.replace(config, seed=7)
    if not binds:
        provenance.refuse_changed_config(run, changed)
        return
    with pytest.raises(InputError, match="seed: 42 in the run, 7 now"):
        provenance.refuse_changed_config(run, changed)


def test_without_a_source_the_vocabulary_is_the_configured_one(run, config, tmp_path):
    assert provenance.tokenizer_config(run, config, None) == config.tokenizer
    (tmp_path / "bare").mkdir()
    assert provenance.tokenizer_config(run, config, tmp_path / "bare") == config.tokenizer


@pytest.mark.parametrize("place", ["tokenizer", "."])
def test_a_fine_tune_reads_with_its_sources_vocabulary(run, config, source, tmp_path, place):
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(source / "tokenizer", tmp_path / "elsewhere" / place, dirs_exist_ok=True)
    found = provenance.tokenizer_config(run, config, tmp_path / "elsewhere")
    assert found.build(16).vocab_size == 300


def test_the_sources_vocabulary_given_again_is_accepted(run, config, source, tmp_path):
    shutil.copytree(source / "tokenizer", tmp_path / "copy")
    for same in (TokenizerConfig(path=str(tmp_path / "copy")), TokenizerConfig(vocab_size=300)):
        found = provenance.tokenizer_config(run, dataclasses.replace(config, tokenizer=same), source)
        assert found.path == str(source / "tokenizer")


def test_another_vocabulary_than_the_sources_is_refused(run, config, source, tmp_path):
    TokenizerConfig(vocab_size=310).build(16).save(tmp_path / "other")
    for other in (TokenizerConfig(path=str(tmp_path / "other")), TokenizerConfig(vocab_size=310)):
        with pytest.raises(
            InputError, match=r"source/tokenizer/tokenizer.json, and they differ. Leave --tokenizer.path"
        ):
            provenance.tokenizer_config(run, dataclasses.replace(config, tokenizer=other), source)


def test_once_it_has_trained_a_run_reads_with_its_own_vocabulary(run, config, source):
    TokenizerConfig(vocab_size=310).build(16).save(run.tokenizer)
    run.step(5).mkdir(parents=True)
    assert provenance.tokenizer_config(run, config, source).path == str(run.tokenizer)


def test_a_source_is_asked_for_again_until_there_is_a_checkpoint(run, config, source):
    provenance.refuse_forgotten_source(run, None)
    provenance.record(run, config, source)
    provenance.refuse_forgotten_source(run, source)
    with pytest.raises(InputError, match=f"this run began with --init-from {source} and has no checkpoint yet"):
        provenance.refuse_forgotten_source(run, None)
    run.step(5).mkdir(parents=True)
    provenance.refuse_forgotten_source(run, None)


SHARDS, POSE = "2, digest aaaa", {"data_pipelines/conventions/pose.py": "1111"}
SAVED = {"a": {"key": "1" * 64, "made_from": {"version": "1.0.0", "shards": SHARDS, **POSE}}}
SAVED["a"]["files"] = {"w.json (data.task.paraphrases)": "4"}
FILES = {"files": SAVED["a"]["files"]}


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (
            {"a": FILES | {"key": "2", "made_from": SAVED["a"]["made_from"] | {"version": "2.0.0"}}},
            "version: 1.0.0 in the run, 2",
        ),
        (
            {"a": FILES | {"key": "2", "made_from": {"version": "1.0.0", "shards": SHARDS}}},
            "What differs: data_pipelines/conventions/pose.py: 1111 in the run, none now. Restore",
        ),
        ({"a": {"key": "2"}}, "What differs: its shards, its version or the code that standardises them"),
        (
            {"a": SAVED["a"] | {"files": {"w.json (data.task.paraphrases)": "5"}}},
            "has the same key. What differs: w.json (data.task.paraphrases): 4 in the run, 5 now. Restore",
        ),
        (
            {"a": {"key": SAVED["a"]["key"], "made_from": SAVED["a"]["made_from"]}},
            "What differs: w.json (data.task.paraphrases): 4 in the run, none now. Restore",
        ),
        ({}, "What differs: it is in the mixture only in the run"),
        (
            SAVED | {"b": {"key": "3"}},
            "dataset b has key None in the run, 3 now. What differs: it is in the mixture only now",
        ),
    ],
)
def test_other_data_are_refused_with_the_part_that_differs(run, now, message):
    (run.path / "dataset_statistics.json").write_text(json.dumps(SAVED))
    provenance.refuse_other_data(run.path, SAVED)
    with pytest.raises(InputError, match=re.escape(message)):
        provenance.refuse_other_data(run.path, now)
