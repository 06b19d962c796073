"""The signal handler by itself: the first signal asks, the second ends the process."""

import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT, one_device
from vla_jax.training.preemption import Preemption

WAITS = """
import time
from vla_jax.training.preemption import Preemption
with Preemption() as preemption:
    print("ready", flush=True)
    while not preemption.requested(0):
        time.sleep(0.01)
    print(preemption.signal_name, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_request_and_the_second_ends_at_once(number):
    command = [sys.executable, "-c", WAITS]
    process = subprocess.Popen(command, cwd=ROOT, env=one_device(), stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stdout.readline() == f"{number.name}\n"
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(timeout=10) == -number


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        assert signal.getsignal(signal.SIGTERM) != before
        assert not preemption.requested(3)
    assert signal.getsignal(signal.SIGTERM) == before
