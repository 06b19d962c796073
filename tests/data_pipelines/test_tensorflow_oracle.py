"""TensorFlow itself as the oracle, in an environment of its own (build/environments/tensorflow).

dlimp comes from a git host; where that is not reachable its part skips loudly, and tensorflow_datasets' streams of
trajectories are what is tested.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from tests.rlds_episodes import write_bridge, write_fractal

ROOT = Path(__file__).resolve().parents[2]
ORACLE, ELSEWHERE = (Path(__file__).with_name(f"tensorflow_{name}.py") for name in ("oracle", "elsewhere"))
REQUIREMENTS = [ROOT / "requirements.txt", ROOT / "requirements-dlimp.txt"]
pytestmark = [pytest.mark.environments, pytest.mark.slow]


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=1500, **options)
    assert not done.returncode, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def environment() -> Path:
    """Its Python; made anew where the requirements have changed."""
    folder = ROOT / "build" / "environments" / "tensorflow"
    python, stamp = folder / "bin" / "python", folder / "requirements.sha256"
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in REQUIREMENTS)).hexdigest()
    if not stamp.is_file() or stamp.read_text() != wanted:
        run(sys.executable, "-m", "venv", "--clear", folder)
        install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run(*install, "-r", REQUIREMENTS[0])
        listed = [line for line in REQUIREMENTS[1].read_text().splitlines() if line and not line.startswith("#")]
        run(*install, "--no-deps", *[line for line in listed if not line.startswith("dlimp")])
        stamp.write_text(wanted)
    return python


@pytest.fixture(scope="module")
def has_dlimp(environment) -> bool:
    if not subprocess.run([environment, "-c", "import dlimp"], capture_output=True).returncode:
        return True
    line = next(line for line in REQUIREMENTS[1].read_text().splitlines() if line.startswith("dlimp"))
    command = [environment, "-m", "pip", "install", "--quiet", "--no-deps", line]
    return not subprocess.run(command, capture_output=True, timeout=600).returncode


def ask(python: Path, *arguments) -> dict:
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ORACLE.parent)])
    environment.pop("XLA_FLAGS", None)
    return json.loads(run(python, *arguments, env=environment).splitlines()[-1])


def check(report: dict) -> None:
    """Nothing differs but with TensorFlow's fast decoder, where it must: else the comparison sees nothing."""
    twins = [name for name in report if "default dct_method" in name]
    assert {"pictures", "batches of the stream that decodes"} <= {name.split(" with the default")[0] for name in twins}
    for name in twins:
        if not name.startswith("resume"):
            assert report[name]["different"], name
    same = {name: entry for name, entry in report.items() if name not in twins}
    assert {name: entry for name, entry in same.items() if entry["different"] or not entry["values"]} == {}
    assert {"numbers", "texts", "pictures", "batches of the stream", "resume of the stream"} <= same.keys()


def noisy(number, episode):
    """Flat colours decode alike with every DCT."""
    generator = np.random.default_rng(number)
    for key, pictures in episode.items():
        if "/image" in key:
            shape = simplejpeg.decode_jpeg(pictures[0]).shape
            pixels = generator.integers(0, 256, (len(pictures), *shape), dtype=np.uint8)
            episode[key] = [simplejpeg.encode_jpeg(picture, 90, "RGB", "420") for picture in pixels]


@pytest.mark.parametrize(("write", "shape"), [(write_bridge, (24, 40)), (write_fractal, (24, 40))])
def test_generated_datasets_read_as_tensorflow_reads_them(environment, tmp_path, write, shape):
    folder = write(tmp_path, size=shape, edit=noisy)
    check(ask(environment, ORACLE, folder, "train", tmp_path / "cache"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_real_bridge_sample_reads_as_tensorflow_reads_it(environment, shared_data, tmp_path, split):
    folder = shared_data / "bridge_dataset" / "1.0.0"
    report = ask(environment, ORACLE, folder, split, tmp_path)
    print(json.dumps(report))
    check(report)


def test_a_dlimp_transform_trains_on_the_pipelines_batches(environment, has_dlimp, tmp_path):
    if not has_dlimp:
        pytest.skip("SKIPPED: dlimp cannot be installed, its git host is not reachable")
    folder = write_bridge(tmp_path, size=(24, 40), edit=noisy)
    report = ask(environment, ORACLE, folder, "train", tmp_path / "cache", "dlimp")
    check(report)
    assert report["batches of the dlimp stream"]["values"]


def test_a_process_of_its_own_keeps_tensorflow_out_of_this_one(environment, tmp_path):
    folder = write_bridge(tmp_path, size=(24, 40), edit=noisy)
    report = ask(environment, ELSEWHERE, folder, "train", tmp_path / "cache")
    assert report["imported_here"] == []
    assert report["different"] == 0
    assert report["leaves"]
