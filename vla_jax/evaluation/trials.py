"""Trials of a closed-loop evaluation, and what they add up to."""

import dataclasses
import math
from typing import Any

import numpy as np


@dataclasses.dataclass
class Trial:
    """A line of trials.jsonl, filled while it runs."""

    embodiment: str
    task: str
    initial_state: int
    seed: int
    instruction: str = ""
    steps: int = 0
    success: bool = False
    score: float = 0.0
    """0, 0.5 (partly fulfilled at some time) or 1."""
    error: str | None = None
    latency_ms: list[float] = dataclasses.field(default_factory=list)
    """Of each policy call that planned for it; the call serves all trials under way."""
    frames: list[np.ndarray] = dataclasses.field(default_factory=list, repr=False)

    def line(self) -> dict[str, Any]:
        tree = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del tree["frames"]
        return tree | {"latency_ms": round(float(np.median(self.latency_ms)), 3) if self.latency_ms else None}


def summarize(trials: list[Trial], suite: str, seed: int) -> dict[str, Any]:
    """The schema `evaluation_summary`. Trials that an environment's error ended count in `errors` only."""
    sound = [trial for trial in trials if trial.error is None]
    successes, latencies = sum(trial.success for trial in sound), [x for t in trials for x in t.latency_ms]
    p50, p95 = np.percentile(latencies, (50, 95)) if latencies else (0.0, 0.0)
    return {
        "suite": suite,
        "trials": len(sound),
        "successes": successes,
        "errors": len(trials) - len(sound),
        "success_rate": successes / len(sound) if sound else 0.0,
        "wilson_95": list(wilson(successes, len(sound))),
        "partial_score": float(np.mean([trial.score for trial in sound])) if sound else 0.0,
        "seed": seed,
        "latency_ms": {"p50": float(p50), "p95": float(p95)},
    }


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a success rate, 95 % by default; (0, 1) without trials. Source: Wilson 1927."""
    if trials == 0:
        return 0.0, 1.0
    rate, weight = successes / trials, z * z / trials
    centre = (rate + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(rate * (1 - rate) / trials + weight / (4 * trials))
    return max(0.0, centre - half), min(1.0, centre + half)
