"""The backend is chosen only where nothing was asked for and no accelerator is attached."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT, one_device

CHOICE = """
from pathlib import Path
import jax
from vla_jax import accelerator
if {attached}:
    accelerator._DEVICE_FILES = ("null",)
accelerator.choose_platform()
print(jax.config.jax_platforms)
"""


@pytest.mark.parametrize(
    ("asked", "attached", "chosen"), [(None, False, "cpu"), (None, True, "None"), ("tpu,cpu", False, "tpu,cpu")]
)
def test_the_cpu_is_chosen_only_where_there_is_nothing_else(asked, attached, chosen):
    environment = {name: value for name, value in one_device().items() if name != "JAX_PLATFORMS"}
    if asked:
        environment["JAX_PLATFORMS"] = asked
    script = CHOICE.format(attached=attached)
    if not attached:
        script = script.replace("accelerator.choose", 'accelerator._DEVICE_FILES = ("nothing",)\naccelerator.choose')
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == chosen, done.stderr
