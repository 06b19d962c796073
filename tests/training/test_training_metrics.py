"""metrics.jsonl: digests, torn lines, repeated steps, and mirrors that are imported only when asked for."""

import hashlib
import json
import struct
import sys
import types

import numpy as np
import pytest

from vla_jax.training import metrics
from vla_jax.training.metrics import MetricsLog, batch_digest, read_metrics, step_line
from vla_jax.types import InputError

RATES = {"samples_per_second": 1.0, "step_seconds": 1.0, "data_wait_fraction": 0.0}


def on_host(loss=1.5, **terms):
    return {
        "loss": np.float32(loss),
        "grad_norm": np.float32(2.0),
        "learning_rate": np.float32(0.1),
        "terms": terms,
        "sample_ids": np.zeros((2, 3), np.int32),
        "bad_step": -1,
    }


def test_the_digest_hashes_the_ids_as_little_endian_int32():
    ids = [[0, 3, 7], [1, 2, 70_000]]
    expected = hashlib.sha256(struct.pack("<6i", *(number for row in ids for number in row))).hexdigest()[:16]
    assert batch_digest(np.array(ids, np.int64)) == expected
    assert batch_digest(np.array(ids, ">i4")) == expected
    assert batch_digest(np.array(ids[::-1])) != expected


def test_a_line_keeps_every_bit_of_the_loss():
    line = step_line(3, on_host(0.1, l1=np.float32(0.25)), RATES)
    assert np.float32(float.fromhex(line["loss_hex"])) == np.float32(0.1)
    assert (line["step"], line["l1"]) == (3, 0.25)


def test_a_term_that_hides_a_metric_is_refused():
    with pytest.raises(InputError, match="loss term 'grad_norm'"):
        step_line(1, on_host(grad_norm=np.float32(1)), RATES)


def test_a_torn_last_line_is_cut_and_the_rest_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "start", "restored_step": 0}\n{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    MetricsLog(path, restored_step=1).close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("step", line.get("event")) for line in lines] == ["start", 1, "start"]


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "st')
    metrics.cut_torn_line(path)
    assert path.read_text() == ""


def test_readers_get_the_last_of_repeated_steps(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for restored, steps in ((0, (1, 2, 3)), (1, (2,))):
        log = MetricsLog(path, restored_step=restored)
        for step in steps:
            log.write({"step": step, "loss": float(10 * restored + step)})
        log.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [(1, 1.0), (2, 12.0), (3, 3.0)]


@pytest.mark.parametrize(("logger", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_an_absent_logger_is_named_with_the_line_that_installs_it(tmp_path, monkeypatch, logger, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"pip install {package}"):
        metrics.open_mirrors((logger,), tmp_path, run_name="x", config={})


def test_no_logger_is_imported_unless_asked_for(tmp_path, monkeypatch):
    for package in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)
    assert metrics.open_mirrors((), tmp_path, run_name="x", config={}) == ()


def test_mirrors_get_the_numbers_of_every_line(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    class Run:
        def log(self, values, step):
            written.append((values["loss"], step))

        def finish(self):
            written.append("finished")

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **_: Run()))
    mirrors = metrics.open_mirrors(("tensorboard", "wandb"), tmp_path, run_name="x", config={})
    log = MetricsLog(tmp_path / "metrics.jsonl", restored_step=0, mirrors=mirrors)
    log.write(step_line(1, on_host(2.0), RATES))
    log.close()
    assert ("loss", 2.0, 1) in written
    assert (2.0, 1) in written
    assert written[-2:] == ["closed", "finished"]
    assert not any("digest" in str(entry) for entry in written)
