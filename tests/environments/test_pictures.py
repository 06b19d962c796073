"""What the cameras show. Needs a GL library."""

import numpy as np
import pytest

from vla_jax.environments.base import open_environment
from vla_jax.environments.tabletop.suites import COLOURS, SUITES

SIZE = 64


@pytest.fixture(scope="module", params=("gantry", "arm"))
def seeing(request, gl_backend):
    with open_environment("tabletop", embodiment=request.param, image_size=SIZE) as environment:
        yield environment


def count(picture: np.ndarray, colour: str) -> int:
    """Pixels whose hue is the colour's, by direction in RGB, so that shading does not matter."""
    direction = np.array(COLOURS[colour]) / np.linalg.norm(COLOURS[colour])
    pixels = picture.reshape(-1, 3).astype(np.float64)
    length = np.linalg.norm(pixels, axis=1)
    return int(((pixels @ direction > 0.97 * length) & (length > 60)).sum())


def test_each_camera_shows_the_named_block(seeing):
    for task in SUITES["reach"].tasks:
        colour = task.name.split("_")[1]
        seen = [seeing.reset(task.name, state).images for state in range(8)]
        assert {slot: picture.shape for slot, picture in seen[0].items()} == {
            "primary": (SIZE, SIZE, 3),
            "wrist": (SIZE, SIZE, 3),
        }
        for slot in ("primary", "wrist"):
            pixels = [count(images[slot], colour) for images in seen]
            assert np.median(pixels) >= 10, (colour, slot, pixels)
        assert min(count(images["primary"], colour) for images in seen) > 5


def test_a_colour_that_is_not_in_the_scene_is_not_in_the_picture(seeing):
    scene, _ = SUITES["reach"].tasks[0].scene(0)
    there = {item.colour for item in scene.items}
    seen = seeing.reset("reach_red", 0)
    for colour in {"red", "green", "blue", "yellow", "purple"} - there:
        assert count(seen.images["primary"], colour) < 3, colour


def test_left_is_left_in_the_front_picture(seeing):
    seen = seeing.reset("goal_red_white", 0)
    columns = {}
    for colour in ("red", "blue"):
        hits = [count(seen.images["primary"][:, column], colour) for column in range(SIZE)]
        columns[colour] = np.average(np.arange(SIZE), weights=hits)
    bodies = seeing.situation().bodies
    assert bodies["block_0"][1] < bodies["block_1"][1]
    assert columns["red"] < columns["blue"]


def test_the_gripper_is_seen_by_both_cameras(seeing):
    """Opening and closing it changes both pictures."""
    seen = seeing.reset("reach_red", 4)
    for _ in range(6):
        closed, _ = seeing.step(seeing.native_action(seen.pose, 0.0))
    for slot in ("primary", "wrist"):
        change = np.abs(closed.images[slot].astype(int) - seen.images[slot]).max(-1) > 40
        assert change.sum() >= 10, slot


def test_pictures_are_deterministic(seeing):
    one = seeing.reset("object_green_black", 3).images
    seeing.reset("reach_red", 0)
    two = seeing.reset("object_green_black", 3).images
    for slot in one:
        np.testing.assert_array_equal(one[slot], two[slot])
