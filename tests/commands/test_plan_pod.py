"""`plan --topology`: small recipes compiled for TPU pods that are not there.

The compiler is downloaded; `make test-all` runs what needs it.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import jsonschema
import pytest

from tests.conftest import ROOT, one_device
from vla_jax import recipe
from vla_jax.__main__ import main
from vla_jax.commands.plan import _without_mesh
from vla_jax.config import RunConfig
from vla_jax.nn.stack import Remat
from vla_jax.planning.sweep import candidates, is_hopeless, ranked, remat_options, row
from vla_jax.planning.topologies import LIBTPU, topology
from vla_jax.schemas import schema

TINY = "configs/openvla_oxe.py:tiny"
RECIPE = """
import dataclasses
from data_pipelines.config import DataConfig, MixtureEntry
from tests.toy import ToyConfig, toy_config


def get_config():
    data = DataConfig(root="nowhere", mixture=(MixtureEntry(name="bridge_dataset"),))
    policy = ToyConfig(width=128, num_layers=6)
    return toy_config(data=data, policy=policy, batch_size=32, compute_dtype="bfloat16")
"""


LOG = {"TPU_STDERR_LOG_LEVEL": "0", "TPU_MIN_LOG_LEVEL": "0", "TPU_VMODULE": "deepsea_compiler_backend=1"}
"""The compiler says what it does."""


@pytest.fixture(scope="session")
def compiler() -> Path:
    """Where libtpu lies: a folder of its own, for wherever it is installed JAX looks for a TPU first."""
    folder = ROOT / "build" / "environments" / LIBTPU
    if not folder.is_dir():
        partial = folder.with_name(f"{LIBTPU}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        line = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(partial), LIBTPU]
        ended = subprocess.run(line, capture_output=True, text=True)
        assert not ended.returncode, ended.stderr
        partial.rename(folder)
    return folder


@pytest.fixture
def toy(tmp_path) -> str:
    file = tmp_path / "toy_recipe.py"
    file.write_text(RECIPE)
    return str(file)


def plan(compiler, folder, *options, ends=0) -> tuple[dict, str]:
    """In a process of its own: libtpu stays out of this one."""
    file = folder / "plan.json"
    line = [sys.executable, "-m", "vla_jax", "plan", "--json", str(file), "--config", *options]
    environment = one_device() | LOG | {"PYTHONPATH": str(compiler)}
    ended = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == ends, ended.stderr
    tree = json.loads(file.read_text()) if file.is_file() else {}
    if tree:
        jsonschema.validate(tree, schema("plan"))
    return tree, ended.stdout + ended.stderr


@pytest.mark.environments
def test_a_step_compiled_for_a_pod_is_accounted_for(compiler, toy, tmp_path):
    tree, output = plan(
        compiler,
        tmp_path,
        toy,
        "--topology",
        "v5e:2x4",
        "--mesh.data",
        "1",
        "--mesh.fsdp",
        "8",
        "--hlo",
        str(tmp_path / "x.hlo"),
    )
    assert (tree["topology"], tree["chips"], tree["fits"]) == ("v5e:2x4", 8, True)
    assert tree["mesh"] == {"data": 1, "fsdp": 8, "tensor": 1}
    assert tree["unaccounted"] == []
    flops = tree["flops_per_step_per_chip"]
    assert flops["compiled"] == pytest.approx(flops["analytic"], rel=0.01)
    assert flops["analytic"] == tree["flops_per_sample"]["training"] * 32 / 8
    memory, parameters = tree["hbm_bytes_per_chip"], tree["parameters"]
    # Matrices are shared out, a few vectors are not; two moments and counters; an average.
    assert parameters["trainable"] * 4 / 8 <= memory["parameters"] <= 1.3 * parameters["trainable"] * 4 / 8
    assert memory["optimizer"] == pytest.approx(2 * memory["parameters"], rel=0.01)
    assert memory["ema"] == memory["parameters"]
    assert memory["total"] == sum(memory[name] for name in ("arguments", "temporaries", "outputs", "code"))
    logged = re.search(r"program HBM usage: ([\d.]+)M", output)
    assert logged, "the compiler's own sum of temporaries and code"
    assert memory["temporaries"] + memory["code"] == pytest.approx(float(logged[1]) * 2**20, abs=2**20)
    kinds = {(one["kind"], one["axes"], one["phase"]) for one in tree["collectives"]}
    assert ("all-gather", "fsdp", "forward") in kinds
    assert sum(tree["gradient_reduction"].values()) > 0
    assert tree["binding"] == max(tree["seconds_bound"], key=tree["seconds_bound"].get)
    slow, fast = tree["samples_per_second_per_chip"]
    assert 32 / 8 / fast == pytest.approx(max(tree["seconds_bound"].values()))
    assert 32 / 8 / slow == pytest.approx(sum(tree["seconds_bound"].values()))
    assert tree["epoch"]["chip_hours"] is None
    assert tree["epoch"]["unindexed"] == ["bridge_dataset"]
    assert tree["epoch"]["run_samples"] == 20 * 32
    assert (tmp_path / "x.hlo").read_text().startswith("HloModule")
    assert "fits" in output
    assert "not indexed here (bridge_dataset)" in " ".join(output.split())


@pytest.mark.environments
def test_a_sweep_ranks_what_fits_and_says_why_the_rest_does_not(compiler, toy, tmp_path):
    tree, output = plan(
        compiler, tmp_path, toy, "--topology", "v5e:1x2", "--sweep", "--mesh.data", "2", "--sweep-most", "2"
    )
    assert len(tree["sweep"]) == 3 * len(typing.get_args(Remat))
    tried = [one for one in tree["sweep"] if "samples_per_second_per_chip" in one]
    assert len(tried) == 2
    rates = [one["samples_per_second_per_chip"][0] for one in tried]
    assert rates == sorted(rates, reverse=True)
    assert tree["sweep"][: len(tried)] == tried
    assert tree["samples_per_second_per_chip"] == tried[0]["samples_per_second_per_chip"]
    assert all("not tried" in one["reason"] for one in tree["sweep"][len(tried) :])
    assert {one["options"][7] for one in tried} == set(typing.get_args(Remat)[-2:])
    assert "samples/s a chip" in " ".join(output.split())


@pytest.mark.environments
@pytest.mark.parametrize("chip", ["v5e:4x4", "v6e:4x4", "v5p:2x2x4"])
def test_a_tiny_recipe_compiles_for_every_chip(compiler, chip, tmp_path):
    tree, _ = plan(
        compiler, tmp_path, TINY, "--topology", chip, "--batch-size", "16", "--mesh.data", "4", "--mesh.fsdp", "4"
    )
    assert tree["unaccounted"] == []
    flops = tree["flops_per_step_per_chip"]
    assert flops["compiled"] == pytest.approx(flops["analytic"], rel=0.01)


def test_candidates_are_all_meshes_with_the_remat_policies_of_the_recipe():
    config = recipe.load(TINY)
    pod = topology("v5e:2x2")
    lines = candidates(config, pod)
    meshes = {tuple(map(int, line[1:6:2])) for line in lines}
    assert meshes == {(4, 1, 1), (2, 2, 1), (1, 4, 1), (2, 1, 2), (1, 2, 2), (1, 1, 4)}
    policies = remat_options(config)
    assert len(lines) == len(meshes) * len(policies)
    for line in lines:
        changed = recipe.override(config, line, program="plan")
        assert isinstance(changed, RunConfig)
        assert changed.policy.vlm.language.decoder.remat in line
    two = candidates(config, topology("2*v5e:2x2"))
    assert all("--mesh.data-slices" in line for line in two)


def test_a_mesh_that_did_not_fit_is_not_tried_with_a_policy_that_keeps_more():
    mesh, other = ("--mesh.data", "2", "--mesh.fsdp", "1", "--mesh.tensor", "1"), ("--mesh.data", "1") * 3
    plans = {(*mesh, "--policy.remat", "full"): {"fits": False}}
    assert is_hopeless((*mesh, "--policy.remat", "none"), plans)
    assert not is_hopeless((*other, "--policy.remat", "none"), plans)
    assert not is_hopeless((*mesh, "--policy.remat", "none"), {(*mesh, "--policy.remat", "full"): {"fits": True}})


def test_a_sweep_takes_all_options_but_the_mesh():
    overrides = ["--mesh.data", "-1", "--policy.train-clip", "--mesh.fsdp=2", "--batch-size", "8"]
    assert _without_mesh(overrides) == ["--policy.train-clip", "--batch-size", "8"]


def test_rows_are_ranked_by_what_is_sure():
    rows = [
        row(("a",), {"reason": "its state alone takes 20.0 GiB a chip"}),
        row(("b",), {"fits": True, "samples_per_second_per_chip": [1.0, 9.0]}),
        row(("c",), {"fits": True, "samples_per_second_per_chip": [2.0, 3.0]}),
        row(("d",), {"fits": False, "hbm_bytes_per_chip": {"total": 2**35, "limit": 2**34}}),
    ]
    assert [one["options"] for one in ranked(rows)] == [["c"], ["b"], ["a"], ["d"]]
    assert ranked(rows)[-1]["reason"] == "needs 32.0 of 16.0 GiB a chip"


def test_without_the_compiler_one_line_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    assert main(["plan", "--config", TINY, "--topology", "v5e:4x4"]) == 2
    assert f"pip install {LIBTPU}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--topology", "v5e:16"], "v5e has 2 axes"),
        (["--topology", "tpu"], "CHIP:AxB is expected"),
        (["--sweep"], "--sweep: it is of --topology"),
        (["--hlo", "x.hlo"], "--hlo: it is of --topology"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message, capsys):
    assert main(["plan", "--config", TINY, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.environments
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mesh.data", "3"], "does not fit 8 devices"),
        (["--mesh.fsdp", "8", "--mesh.data", "1", "--batch-size", "12"], "batch_size=12 does not divide"),
    ],
)
def test_what_does_not_divide_is_refused_by_name(compiler, toy, tmp_path, options, message):
    _, output = plan(compiler, tmp_path, toy, "--topology", "v5e:2x4", *options, ends=2)
    assert message in " ".join(output.split())
