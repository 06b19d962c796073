"""Which steps a window and a chunk hold, and which of them are real."""

import numpy as np
import pytest

from data_pipelines.trajectories import Trajectories
from data_pipelines.transforms.chunk import Chunk
from data_pipelines.transforms.window import Window

FIRST_STEP = np.array([0, 5, 5, 7, 8])
"""Episodes of 5, 0, 2 and 1 steps."""


def trajectories(next_pose_targets=True):
    valid = np.ones(8, bool)
    if next_pose_targets:
        valid[[4, 6, 7]] = False
    return Trajectories(FIRST_STEP, valid)


@pytest.mark.parametrize(("window", "expected"), [(1, [0, 1, 2, 3, 4, 5, 6, 7]), (3, [0, 1, 2, 5, 7]), (9, [0, 5, 7])])
def test_anchor_first_gives_length_minus_window_plus_one_windows_but_one_at_least(window, expected):
    assert Window(window, "first").anchors(FIRST_STEP).tolist() == expected


def test_anchor_last_gives_a_window_a_step():
    assert Window(3, "last").anchors(FIRST_STEP).tolist() == list(range(8))


def test_windows_without_any_target_are_not_in_the_order():
    assert trajectories().windows(Window(1, "first")).tolist() == [0, 1, 2, 3, 5]
    assert trajectories().windows(Window(2, "last")).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert trajectories(next_pose_targets=False).windows(Window(1, "first")).tolist() == list(range(8))


def test_a_chunk_that_starts_where_there_is_no_target_is_masked_whole_and_its_step_not_sampled():
    """As the first step of a dataset whose measured pose is that of the step before: its own stands in for it."""
    episode = Trajectories(np.array([0, 4]), np.array([False, True, True, True]))
    _, mask = episode.chunk(Chunk(3), np.arange(4))
    assert mask.astype(int).tolist() == [[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert episode.windows(Window(1, "last")).tolist() == [1, 2, 3]
    assert episode.windows(Window(2, "last")).tolist() == [1, 2, 3]
    assert episode.windows(Window(2, "first")).tolist() == [0, 1, 2]


def test_padding_is_on_the_right_of_a_window_that_starts_at_the_step():
    rows, mask = Window(3, "first")(np.array([0, 5]), np.array([0, 5]), np.array([4, 6]))
    assert rows.tolist() == [[0, 1, 2], [5, 6, 6]]
    assert mask.tolist() == [[True, True, True], [True, True, False]]


def test_padding_is_on_the_left_of_a_window_that_ends_at_the_step():
    rows, mask = Window(3, "last")(np.array([0, 6]), np.array([0, 5]), np.array([4, 6]))
    assert rows.tolist() == [[0, 0, 0], [5, 5, 6]]
    assert mask.tolist() == [[False, False, True], [False, True, True]]


@pytest.mark.parametrize(
    ("anchor", "rows", "mask"),
    [
        ("first", [[5, 5, 5], [5, 6, 6], [2, 3, 4]], [[1, 0, 0], [1, 1, 0], [1, 1, 1]]),
        ("last", [[5, 5, 5], [5, 5, 6], [2, 3, 4]], [[0, 0, 1], [0, 1, 1], [1, 1, 1]]),
    ],
)
def test_history_ends_at_the_step_and_never_shows_the_future(anchor, rows, mask):
    found = Window(3, anchor).history(np.array([5, 6, 4]), np.array([5, 5, 0]))
    assert found.rows.tolist() == rows
    assert found.mask.astype(int).tolist() == mask


def true_mask(length, window, horizon):
    """Anchor last, absolute targets: window slot w of the window at t holds step t - window + 1 + w."""
    t, w, h = np.ogrid[:length, :window, :horizon]
    step = t - window + 1 + w
    return (step >= 0) & (step + h < length)


def octo_mask(length, window, horizon):
    """As published: `t - (window + 1) + w + h` reaching the goal (the last step), so that repeated actions count."""
    t, w, h = np.ogrid[:length, :window, :horizon]
    step = t - window + 1 + w
    return (step >= 0) & (t - (window + 1) + w + h < length - 1)


def masks(length, window, horizon, chunk):
    """bool[length, window, horizon] of every window that ends at a step of one episode."""
    episode = Trajectories(np.array([0, length]), np.ones(length, bool))
    anchors = np.arange(length)
    rows, mask = Window(window, "last")(anchors, np.zeros(length, int), np.full(length, length - 1))
    _, valid = episode.chunk(chunk, rows.reshape(-1))
    return valid.reshape(length, window, horizon) & mask[..., None]


@pytest.mark.parametrize(("length", "window", "horizon"), [(10, 2, 4), (5, 3, 2), (3, 1, 6)])
def test_action_mask_marks_every_repeated_action_and_octos_does_not(length, window, horizon):
    ours = masks(length, window, horizon, Chunk(horizon))
    octos = masks(length, window, horizon, Chunk(horizon, octo_compat=True))
    np.testing.assert_array_equal(ours, true_mask(length, window, horizon))
    np.testing.assert_array_equal(octos, octo_mask(length, window, horizon))
    assert not np.array_equal(octos, ours)


def test_octos_mask_trains_5_of_9_repeated_actions():
    """T = 10, W = 2, H = 4: by its own definition the mask begins two steps late."""
    past_the_end = ~masks(10, 2, 4, Chunk(4))
    past_the_end[0, 0] = False  # before the start, not past the end
    octos = masks(10, 2, 4, Chunk(4, octo_compat=True))
    assert (past_the_end.sum(), (past_the_end & ~octos).sum(), (past_the_end & octos).sum()) == (9, 4, 5)


def test_a_coarse_chunk_takes_every_second_step_and_masks_what_lies_past_the_end():
    future, mask = trajectories().chunk(Chunk(4, stride=2), np.array([0, 2]))
    assert future.tolist() == [[0, 2, 3, 3], [2, 3, 3, 3]]  # the last target of the episode of 5 is at step 3
    assert mask.tolist() == [[True, True, False, False], [True, False, False, False]]


def test_an_episode_without_any_target_repeats_its_first_step_masked():
    future, mask = trajectories().chunk(Chunk(3), np.array([7]))
    assert future.tolist() == [[7, 7, 7]]
    assert not mask.any()
