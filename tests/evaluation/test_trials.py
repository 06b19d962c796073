import numpy as np
import pytest

from vla_jax.evaluation.trials import Trial, summarize, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 50, 0.0, 0.0713), (25, 50, 0.3664, 0.6336), (50, 50, 0.9287, 1.0), (1, 10, 0.0179, 0.4042)],
)
def test_wilson_intervals_are_the_published_ones(successes, trials, low, high):
    np.testing.assert_allclose(wilson(successes, trials), (low, high), atol=1e-4)


def test_an_error_is_neither_success_nor_failure():
    trials = [Trial(embodiment="arm", task="t", initial_state=i, seed=0) for i in range(4)]
    trials[0].success, trials[0].score = True, 1.0
    trials[1].score = 0.5
    trials[3].error = "RuntimeError: the simulation blew up"
    trials[0].latency_ms = [1.0, 3.0]
    summary = summarize(trials, "tabletop:reach", 0)
    assert (summary["trials"], summary["successes"], summary["errors"]) == (3, 1, 1)
    assert summary["success_rate"] == pytest.approx(1 / 3)
    assert summary["partial_score"] == pytest.approx(0.5)
    assert summary["latency_ms"]["p50"] == 2.0
