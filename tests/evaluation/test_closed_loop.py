"""Closed loop on the real simulator, with a policy that has hardly been trained: what is written, and what is not."""

import json
import subprocess
import sys

import jsonschema
import pytest

from tests.conftest import ROOT, one_device
from vla_jax.environments.base import EVALUATION_STATES
from vla_jax.evaluation.closed_loop import ClosedLoopConfig
from vla_jax.schemas import schema
from vla_jax.types import InputError


@pytest.fixture(scope="module")
def tabletop_run(gl_backend, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tabletop")
    for embodiment in ("gantry", "arm"):
        options = [
            "--embodiment",
            embodiment,
            "--episodes",
            4,
            "--image-size",
            64,
            "--out",
            folder / "data",
            "--jobs",
            1,
        ]
        _python("-m", "data_pipelines", "demo", *options)
    options = [
        "--config",
        "configs/tabletop_ef_vla.py:tiny",
        "--data.root",
        folder / "data",
        "--run-dir",
        folder / "run",
    ]
    _python("train.py", *options, "--num-steps", 2)
    return folder / "run"


def _python(*arguments):
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, env=one_device(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result


def test_both_robots_are_driven_and_every_trial_is_written(tabletop_run, tmp_path):
    trials = ["--env", "tabletop:reach", "--trials", 4, "--seed", 3, "--batch-size", 2, "--num-pictures", 1]
    _python("eval.py", "--checkpoint", tabletop_run, *trials, "--out", tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    jsonschema.validate(summary, schema("evaluation_summary"))
    lines = [json.loads(line) for line in (tmp_path / "out" / "trials.jsonl").read_text().splitlines()]
    for line in lines:
        jsonschema.validate(line, schema("trials_line"))
    assert [line["embodiment"] for line in lines] == ["gantry", "arm", "gantry", "arm"]
    assert [line["initial_state"] for line in lines] == [30_000, 30_001, 30_002, 30_003]
    assert all(line["success"] or line["steps"] in (20, 40) for line in lines), (
        "a trial ends by success or by its limit"
    )
    assert summary["trials"] == 4
    assert summary["errors"] == 0
    assert len(list((tmp_path / "out").glob("*.png"))) >= 1


def test_trials_never_use_a_state_of_the_demonstrations():
    config = ClosedLoopConfig(environment="tabletop", suite="reach", trials=500, seed=99)
    states = [trial.initial_state for trial in config.plan(("gantry", "arm"))]
    assert len(set(states)) == 500
    assert max(states) < EVALUATION_STATES


@pytest.mark.parametrize(
    ("change", "message"),
    [({"trials": 0}, "trials 0"), ({"seed": 100}, "seed 100"), ({"suite": "fly"}, "its suites are")],
)
def test_impossible_evaluations_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        ClosedLoopConfig(**{"environment": "tabletop", "suite": "reach", "trials": 4} | change)
