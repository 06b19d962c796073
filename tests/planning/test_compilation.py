"""What a compilation takes, from sizes that libtpu 0.0.42.1 gave for steps whose own log has them; and how it ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from vla_jax.planning.compilation import temporary_bytes

STEPS = {
    # Four layers of Qwen3-4B on 256 chips of v6e, in MiB: arguments, outputs, donated, temporaries, peak; the log's.
    "dots": ((8.859, 6.359, 6.359, 288.560, 209.190), 205.78),
    "none": ((8.859, 6.359, 6.359, 693.332, 584.342), 581.59),
    "full": ((10.734, 6.359, 6.359, 531.713, 500.388), 495.12),
}


def _memory(sizes):
    names = ("argument_size", "output_size", "alias_size", "temp_size", "peak_memory")
    return SimpleNamespace(**{f"{name}_in_bytes": round(size * 2**20) for name, size in zip(names, sizes, strict=True)})


@pytest.mark.parametrize("step", STEPS)
def test_gaps_between_temporaries_count_once(step):
    sizes, logged = STEPS[step]
    memory = _memory(sizes)
    assert temporary_bytes(memory) == pytest.approx(logged * 2**20, rel=0.005)
    assert memory.temp_size_in_bytes > 1.07 * logged * 2**20, "they count twice there"


def test_temporaries_are_never_more_than_the_compiler_says_nor_less_than_nothing():
    assert temporary_bytes(_memory((10, 10, 0, 5, 30))) == 5 * 2**20
    assert temporary_bytes(_memory((10, 10, 0, 5, 15))) == 0
    assert temporary_bytes(_memory((10, 10, 0, 5, 0))) == 5 * 2**20, "no peak is given"


HANGS = """
import contextlib, ctypes
from types import SimpleNamespace
from vla_jax.__main__ import stop_by_exit
from vla_jax.planning import compilation

def compile():
    mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    print("compiling", flush=True)
    lock(mutex)  # as a compiler does, it stays in C whatever signals come

stop_by_exit()
compilation.batch_shapes = lambda *_: None
step = SimpleNamespace(lower=lambda *_: SimpleNamespace(compile=compile))
config = SimpleNamespace(policy=SimpleNamespace(data_requirements=lambda: None), batch_size=1)
program = SimpleNamespace(step=step, config=config, state=None, frozen=None)
"""
COMPILES = "compilation.compile_step(program)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_compilation_at_once(number):
    assert _ends(HANGS + COMPILES, number) == -number


def test_by_itself_python_would_wait_for_the_compiler():
    """The wrong twin."""
    with pytest.raises(subprocess.TimeoutExpired):
        _ends(
            f"{HANGS}compilation._signals_end_at_once = contextlib.nullcontext\n{COMPILES}", signal.SIGTERM, seconds=3
        )


def _ends(program, number, *, seconds=30):
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        try:
            assert process.stdout.readline() == "compiling\n"
            while Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][0] != "S":
                time.sleep(0.01)  # until it waits for the mutex: before that, Python hears signals
            process.send_signal(number)
            return process.wait(timeout=seconds)
        finally:
            process.kill()
