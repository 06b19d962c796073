"""Film strips of trials: some frames side by side, under the instruction."""

from pathlib import Path

import matplotlib.figure
import numpy as np

from vla_jax.evaluation.trials import Trial

NUM_FRAMES = 8


def write_strips(folder: Path, trials: list[Trial], count: int) -> None:
    """Up to `count` successes and as many failures, a picture each."""
    kinds = {
        "success": [trial for trial in trials if trial.success],
        "failure": [trial for trial in trials if not trial.success and trial.error is None],
    }
    for kind, chosen in kinds.items():
        for number, trial in enumerate(chosen[:count]):
            write_strip(folder / f"{kind}_{number}.png", trial)


def write_strip(path: Path, trial: Trial) -> None:
    frames = trial.frames
    chosen = np.unique(np.linspace(0, len(frames) - 1, NUM_FRAMES).round().astype(int))
    figure = matplotlib.figure.Figure(figsize=(1.6 * NUM_FRAMES, 2.0), layout="constrained")
    for axis, index in zip(figure.subplots(1, NUM_FRAMES), [*chosen, *[-1] * (NUM_FRAMES - len(chosen))]):
        axis.axis("off")
        if index >= 0:
            axis.imshow(frames[index], interpolation="nearest")
            axis.set_title(f"step {index}", fontsize=7)
    verdict = "success" if trial.success else f"failure, score {trial.score}"
    figure.suptitle(f"“{trial.instruction}”  {trial.embodiment}, state {trial.initial_state}: {verdict}", fontsize=9)
    figure.savefig(path, dpi=100)
