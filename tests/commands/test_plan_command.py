"""`plan` without a topology: figures against the papers' table and against a module that is really built."""

import json
import subprocess
import sys

import jax
import jsonschema
import pytest
from flax import nnx

from tests.conftest import ROOT, one_device
from vla_jax import recipe
from vla_jax.__main__ import main
from vla_jax.flops import Flops
from vla_jax.schemas import schema

TINY = "configs/ef_vla_bridge.py:tiny"
TWO_CAMERAS = ("--policy.cameras", "primary", "wrist")
# CLIP -> millions of parameters (CLIP, what trains), GFLOP of the forward pass of 12 steps of two cameras.
TABLE = {"b32": (151.3, 11.63, 202), "b16": (149.6, 11.63, 800), "l14": (427.6, 11.79, 3790)}


def plan(folder, *options) -> dict:
    file = folder / "plan.json"
    assert main(["plan", "--json", str(file), "--config", *options]) == 0
    tree = json.loads(file.read_text())
    jsonschema.validate(tree, schema("plan"))
    return tree


@pytest.mark.parametrize("clip", ["b32", "b16"])
def test_figures_of_ef_vla_are_those_of_the_table(clip, tmp_path):
    check_against_table(plan(tmp_path, f"configs/ef_vla_bridge.py:{clip}", *TWO_CAMERAS), clip)


def test_the_largest_clip_takes_little_memory(tmp_path):
    """A process of its own, for its peak memory; that of getrusage begins with the peak of this process."""
    code = (
        "import sys; from vla_jax.__main__ import main; assert main(sys.argv[1:]) == 0;"
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    file = tmp_path / "plan.json"
    options = ["plan", "--config", "configs/ef_vla_bridge.py", "--json", str(file), *TWO_CAMERAS]
    command = [sys.executable, "-c", code, *options]
    output = subprocess.run(command, cwd=ROOT, env=one_device(), check=True, capture_output=True, text=True).stdout

    check_against_table(json.loads(file.read_text()), "l14")
    assert int(output.split()[-1]) < 2**20
    assert "clip/vision" in output
    assert "303,179,776" in output


def check_against_table(tree: dict, clip: str) -> None:
    clip_millions, trainable_millions, gigaflops = TABLE[clip]
    parameters, flops = tree["parameters"], tree["flops_per_sample"]
    assert parameters["trainable"] / 1e6 == pytest.approx(trainable_millions, rel=0.005)
    whole = sum(counts["total"] for module, counts in parameters["modules"].items() if module.startswith("clip"))
    assert whole / 1e6 == pytest.approx(clip_millions, rel=0.005)
    assert flops["analytic"] / 1e9 == pytest.approx(gigaflops, rel=0.02)
    # CLIP is frozen: the training step costs its forward pass, and about four times the small rest's.
    rest = flops["analytic"] - flops["frozen"]
    assert 2.5 * rest < flops["training"] - flops["frozen"] < 4 * rest
    assert 0 < flops["recomputed"] < rest
    assert flops["uncounted"] == []


def test_counting_the_body_of_a_scan_once_would_miss_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(Flops, "times", lambda self, count: self)
    tree = plan(tmp_path, "configs/ef_vla_bridge.py:b32", *TWO_CAMERAS)
    assert tree["flops_per_sample"]["analytic"] / 1e9 < TABLE["b32"][2] / 5


def test_parameters_are_those_of_the_policy_and_its_modules(tmp_path):
    parameters = plan(tmp_path, TINY)["parameters"]
    policy = recipe.load(TINY).policy
    shapes = jax.tree.leaves(nnx.state(nnx.eval_shape(lambda: policy.build(nnx.Rngs(0)))))
    assert parameters["total"] == sum(shape.size for shape in shapes)
    for kind in ("total", "trainable"):
        assert sum(counts[kind] for counts in parameters["modules"].values()) == parameters[kind]
    assert parameters["modules"]["trunk/blocks"]["trainable"] == parameters["modules"]["trunk/blocks"]["total"] > 0
    assert parameters["modules"]["clip/vision"]["trainable"] == 0


def test_options_after_the_recipe_change_it(tmp_path):
    frozen = plan(tmp_path, TINY)
    trained = plan(tmp_path, TINY, "--policy.train-clip", "--batch-size", "2")
    assert trained["parameters"]["trainable"] == trained["parameters"]["total"] == frozen["parameters"]["total"]
    assert trained["flops_per_sample"]["analytic"] == frozen["flops_per_sample"]["analytic"]
    assert trained["flops_per_sample"]["training"] > 1.5 * frozen["flops_per_sample"]["training"]
    assert trained["flops_per_sample"]["frozen"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config", TINY, "--no-such-key", "1"], "--no-such-key: no such key"),
        (["--config", "configs/nothing.py"], "there is no file configs/nothing.py"),
        (["--config", TINY, "--json", "no_such_folder/plan.json"], "no_such_folder is no folder"),
    ],
)
def test_bad_input_is_one_message_and_exit_2(options, message, capsys):
    assert main(["plan", *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_other_commands_still_refuse_what_they_do_not_know(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["export", "--checkpoint", "run", "--out", "out", "--no-such-option"])
    assert stopped.value.code == 2
    assert "unrecognized arguments: --no-such-option" in capsys.readouterr().err
