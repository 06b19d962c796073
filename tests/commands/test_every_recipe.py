"""Every recipe for Open X-Embodiment from the command line, as its tiny twin: train, evaluate, export, fine-tune.

`make test-all` runs them; what `make test` has of it is EF-VLA's (tests/training, tests/evaluation, tests/convert).
"""

import importlib
import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, one_device
from vla_jax.convert.safetensors_folder import read_json

pytestmark = pytest.mark.all_presets
RECIPES = sorted(path.stem for path in (ROOT / "configs").glob("*_oxe.py"))
LORA = {"ef_vla_oxe": "ef_vla_bridge:tiny_lora"}
"""Recipes whose fine-tune stands in another file; the others have `tiny_lora`, or a fine-tune in full."""


def python(*words) -> str:
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=one_device(), capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def train(recipe: str, data, run, *more) -> None:
    name, _, variant = recipe.partition(":")
    options = ["--data.root", data, "--run-dir", run, "--batch-size", 4, "--checkpoint-every", 2, *more]
    python("train.py", "--config", f"configs/{name}.py:{variant}", *options)


def losses(run) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def fine_tune(recipe: str) -> tuple[str, tuple]:
    """Recipe and options of a fine-tune that starts from the recipe's tiny run."""
    variant = LORA.get(recipe, f"{recipe}:tiny_lora")
    name, _, function = variant.partition(":")
    if hasattr(importlib.import_module(f"configs.{name}"), function):
        return variant, ()
    return f"{recipe}:tiny", ("--optimizer.peak-rate", 1e-4)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_goes_on_evaluates_exports_and_is_fine_tuned(recipe, bridge_data, tmp_path):
    run, tuned = tmp_path / "run", tmp_path / "tuned"
    train(f"{recipe}:tiny", bridge_data, run, "--num-steps", 2)
    train(f"{recipe}:tiny", bridge_data, run, "--num-steps", 4)
    assert len(losses(run)) == 4
    dataset = bridge_data / "bridge_dataset" / "1.0.0"
    python("eval.py", "--checkpoint", run, "--open-loop", dataset, "--out", tmp_path / "errors", "--num-pictures", 1)
    assert read_json(tmp_path / "errors" / "summary.json")["windows"] > 0
    python("-m", "vla_jax", "export", "--checkpoint", run, "--to", "hf", "--out", tmp_path / "torch")
    assert read_json(tmp_path / "torch" / "parity.json")["max_relative_error"] <= 1e-5
    variant, more = fine_tune(recipe)
    train(variant, bridge_data, tuned, "--num-steps", 2, "--init-from", run, *more)
    python("-m", "vla_jax", "export", "--checkpoint", tuned, "--to", "hf", "--out", tmp_path / "tuned_torch")
    assert read_json(tmp_path / "tuned_torch" / "parity.json")["max_relative_error"] <= 1e-5
