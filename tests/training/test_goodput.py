"""The wall time of a run, over its starts, by what it went to; and the trace that --profile asks for."""

import datetime
import gzip
import json
import time

import jax
import pytest

import train
from tests.conftest import ROOT
from tests.toy import StopAfter, ToyPipeline, toy_config, train_toy
from vla_jax.run_directory import RunDirectory
from vla_jax.training.goodput import Goodput, process_age
from vla_jax.training.loop import Training
from vla_jax.training.metrics import read_lines
from vla_jax.training.preemption import Preemption
from vla_jax.training.profile import Profile, steps_to_profile
from vla_jax.training.program import build_program
from vla_jax.types import InputError


def test_phases_part_the_time_and_an_inner_one_is_not_the_outer_ones():
    goodput = Goodput(age_seconds=5.0)
    began = time.monotonic()
    goodput.begin("step")
    time.sleep(0.05)
    with goodput.phase("save"):
        time.sleep(0.1)
        with goodput.phase("data_wait"):
            time.sleep(0.2)
    spent, passed = goodput.seconds(), time.monotonic() - began
    assert sum(spent.values()) == pytest.approx(5.0 + passed, abs=0.02)
    assert spent["start"] == pytest.approx(5.0, abs=0.02)
    assert 0.1 <= spent["save"] < spent["data_wait"] < passed
    assert goodput.current[0] == "step"
    assert goodput.report()["goodput"] == pytest.approx(spent["step"] / sum(spent.values()), abs=0.01)


def test_a_phase_that_fails_is_over():
    goodput = Goodput()
    with pytest.raises(OSError, match="full"), goodput.phase("save"):
        raise OSError("full")
    assert goodput.current[0] == "start"


def start_line(seconds_ago):
    when = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds_ago)
    return {"event": "start", "restored_step": 0, "time": when.isoformat()}


def test_what_was_lost_with_a_kill_is_an_interruption():
    """100 s ago a first start: step 10 after 30 s, step 12 after 36; a second start, too, lost all after step 10."""
    lines = [start_line(100), {"step": 10, "wall_seconds": {"step": 25.0, "compile": 5.0}}]
    lines += [{"step": 12, "wall_seconds": {"step": 31.0, "compile": 5.0}}, start_line(50)]
    lines += [{"step": 11, "wall_seconds": {"step": 28.0, "compile": 9.0, "interrupted": 20.0}}]
    goodput = Goodput()
    goodput.resume(lines, restored_step=10)
    spent = goodput.seconds()
    assert (spent["step"], spent["compile"]) == (25.0, 5.0)
    assert spent["interrupted"] == pytest.approx(70.0, abs=0.2)
    assert sum(spent.values()) == pytest.approx(100.0, abs=0.2)


def test_a_run_without_a_line_yet_has_lost_all_of_its_earlier_start():
    goodput = Goodput(age_seconds=4.0)
    goodput.resume([start_line(10)], restored_step=0)
    assert goodput.seconds()["interrupted"] == pytest.approx(6.0, abs=0.2)


class LateBatch(ToyPipeline):
    def batch(self, step):
        time.sleep(2.0 if step == 9 else 0.0)
        return super().batch(step)


def test_the_wall_time_of_two_starts_is_all_accounted_for(tmp_path):
    config = toy_config(num_steps=10)
    assert not train_toy(config, tmp_path, preemption=StopAfter(4))
    time.sleep(0.5)
    assert train_toy(config, tmp_path, pipeline=LateBatch(config.seed, config.batch_size))
    start, *lines = read_lines(tmp_path / "metrics.jsonl")
    lines = [line for line in lines if "step" in line]
    last_write = (tmp_path / "metrics.jsonl").stat().st_mtime
    passed = last_write - datetime.datetime.fromisoformat(start["time"]).timestamp()
    first, last = lines[3]["wall_seconds"], lines[-1]["wall_seconds"]
    assert all(first[name] <= seconds for name, seconds in last.items())
    assert sum(last.values()) == pytest.approx(passed, abs=0.5)
    assert last["interrupted"] >= 0.5
    assert last["data_wait"] > 0.3
    assert last["restore"] > first["restore"]
    assert min(last["save"], last["step"], last["compile"]) > 0
    assert lines[-1]["goodput"] == pytest.approx(last["step"] / sum(last.values()), abs=1e-3)


def test_the_line_of_a_preemption_is_written_though_it_was_not_due(tmp_path):
    assert not train_toy(toy_config(log_every=50), tmp_path, preemption=StopAfter(3))
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl") if "step" in line] == [3]


def test_a_process_knows_how_old_it_is():
    age = process_age()
    time.sleep(0.1)
    assert 0.05 < process_age() - age < 1.0
    assert 0 < age < 24 * 3600


def test_the_trace_holds_the_steps_that_were_asked_for(tmp_path):
    config = toy_config(num_steps=6)
    run, program = RunDirectory(tmp_path), build_program(config, config.mesh.build(jax.devices()[:1]))
    profile = Profile(steps_to_profile("3:5", config.num_steps), run.profile)
    pipeline = ToyPipeline(config.seed, config.batch_size)
    assert Training(program, run, pipeline, Preemption(), profile=profile).run(dict)
    (trace,) = run.profile.rglob("*.trace.json.gz")
    assert list(run.profile.rglob("*.xplane.pb"))
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = [event["args"]["step_num"] for event in events if event.get("name") == "train"]
    assert sorted(map(int, steps)) == [3, 4]


@pytest.mark.parametrize("text", ["5", "5:", ":5", "a:b", "5:5", "6:5", "0:3", "21:22", "-1:2", "1:2:3", "1.5:2"])
def test_steps_that_cannot_be_traced_are_refused(monkeypatch, text):
    monkeypatch.chdir(ROOT)
    line = ["--config", "configs/ef_vla_bridge.py:tiny", "--num-steps", "20", f"--profile={text}"]
    with pytest.raises(InputError, match=f"--profile {text}: "):
        train.parse(line)
