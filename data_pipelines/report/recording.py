"""Samples as a Rerun recording (rerun.io), an optional extra: `requirements-rerun.txt`."""

import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.report.sample import ShownSample
from vla_jax.types import DataRequirements, InputError


def import_rerun() -> Any:
    try:
        return importlib.import_module("rerun")
    except ImportError as error:
        raise InputError(
            f"--rrd needs rerun-sdk, which is not installed ({error}): pip install -r requirements-rerun.txt"
        ) from error


def write_recording(file: Path, samples: Sequence[ShownSample], needs: DataRequirements, name: str) -> None:
    """Timelines: `sample`, and within it `window`, the window step, then `ahead`, the entry of the chunk."""
    rerun = import_rerun()
    with tempfile.TemporaryDirectory(prefix=".", dir=file.parent) as folder:
        part = Path(folder) / file.name
        stream = rerun.RecordingStream("vla_jax")
        stream.save(part)
        stream.send_recording_name(name)
        for number, sample in enumerate(samples):
            stream.reset_time()
            stream.set_time("sample", sequence=number)
            _log_sample(rerun, stream, sample, needs)
        stream.flush()
        stream.disconnect()
        part.replace(file)


def _log_sample(rerun: Any, stream: Any, sample: ShownSample, needs: DataRequirements) -> None:
    place = f"{sample.dataset}, episode {sample.episode}, step {sample.step}"
    stream.log("task", rerun.TextDocument(f"{place}: {sample.chosen.text or 'no instruction'}"))
    for step in range(needs.window):
        stream.set_time("window", sequence=step)
        for slot, pictures in sample.pictures.items():
            picture = pictures.as_read[step]
            if picture is not None:
                name = slot.replace(" ", "_")
                stream.log(f"{name}/as_read", rerun.Image(picture))
                stream.log(f"{name}/as_seen", rerun.Image(pictures.seen[step]))
    for ahead in range(needs.action_space.horizon):
        stream.set_time("ahead", sequence=ahead)
        for number, dimension in enumerate(needs.action_space.dimensions):
            if sample.action_mask[sample.place, ahead, number]:
                for kind, values in (("stored", sample.action), ("normalised", sample.normalised_action)):
                    value = float(values[sample.place, ahead, number])
                    stream.log(f"action/{kind}/{dimension.name}", rerun.Scalars(value))
