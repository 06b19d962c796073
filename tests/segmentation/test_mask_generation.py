"""Automatic mask generation: planted masks give exact boxes; every piece against transformers' own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.parity import BAR, ours_from, randomize, relative_error
from vla_jax.encoders import sam
from vla_jax.parameters import split
from vla_jax.segmentation.box_detector import BoxDetector
from vla_jax.segmentation.mask_generation import (
    MaskGeneration,
    Proposals,
    enlargement,
    fit,
    mask_boxes,
    point_grid,
    stability,
)
from vla_jax.segmentation.selection import Selection, without_overlaps
from vla_jax.types import InputError, TokenGrid

torch = pytest.importorskip("torch")

RANDOM = np.random.default_rng(0)
AS_USERS_COMPILE = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
"""Sums in another order, as the tests' quick compilations have them, are a little beyond the bar."""
SIZES = [(48, 64), (64, 48), (40, 40), (30, 113), (480, 640)]


@pytest.fixture(scope="module")
def theirs():
    """transformers' functions, in the file that needs no torchvision."""
    from transformers.models.sam import image_processing_pil_sam

    return image_processing_pil_sam


@pytest.fixture(scope="module")
def processor(theirs):
    return theirs.SamImageProcessorPil(size={"longest_edge": 40}, pad_size={"height": 40, "width": 40})


# ---- pieces


@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_resized_as_transformers_does(processor, size):
    picture = RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)
    given = processor(picture, return_tensors="pt")
    fitted = fit(picture, 40)

    assert fitted.shape[:2] == tuple(given["reshaped_input_sizes"][0].tolist())
    pixels = given["pixel_values"][0].permute(1, 2, 0).numpy()
    ours = (fitted / 255.0 - processor.image_mean) / processor.image_std
    assert relative_error(ours, pixels[: fitted.shape[0], : fitted.shape[1]]) <= BAR
    assert not pixels[fitted.shape[0] :].any()
    assert not pixels[:, fitted.shape[1] :].any()


@pytest.mark.parametrize("size", SIZES)
def test_masks_come_to_the_original_size_as_in_transformers(processor, size):
    shown = fit(np.zeros((*size, 3), np.uint8), 40).shape[:2]
    low = RANDOM.normal(size=(1, 3, 20, 20)).astype(np.float32)
    wanted = processor.post_process_masks(torch.tensor(low)[None], [size], [shown], binarize=False)[0]
    vertical, horizontal = (enlargement(20, 40, *sizes) for sizes in zip(shown, size))
    assert relative_error(np.einsum("Yy,mkyx,Xx->mkYX", vertical, low, horizontal), wanted) <= BAR

    squeezed = (enlargement(20, 40, 40, original) for original in size)  # the padding left in
    wrong = np.einsum("Yy,mkyx,Xx->mkYX", next(squeezed), low, next(squeezed))
    assert size == (40, 40) or relative_error(wrong, wanted) > 100 * BAR


def test_points_are_those_of_transformers(theirs):
    np.testing.assert_allclose(point_grid(5), theirs._build_point_grid(5))


def test_stability_and_boxes_are_those_of_transformers_but_for_the_far_edge(theirs):
    logits = np.zeros((6, 11, 17), np.float32) - 3
    for number, mask in enumerate(logits[:4]):
        mask[number : 4 + 2 * number, 2 * number : 9] = (
            RANDOM.normal(size=mask[number : 4 + 2 * number, 2 * number : 9].shape) + 1
        )
    logits[4] = 5

    wanted = theirs._compute_stability_score(torch.tensor(logits[:5]), 0, 1)
    np.testing.assert_allclose(jax.jit(stability)(logits[:5], 1.0), wanted, rtol=1e-6)
    assert stability(jnp.asarray(logits[5:]), 1.0) == 0  # theirs is not a number

    theirs_boxes = theirs._batched_mask_to_box(torch.tensor(logits > 0)).numpy()
    boxes = np.asarray(jax.jit(mask_boxes)(logits > 0))
    np.testing.assert_array_equal(boxes[5], [0, 0, 0, 0])
    np.testing.assert_array_equal(boxes[:5] - [0, 0, 1, 1], theirs_boxes[:5])


def greedy(boxes, scores, largest):
    """Non-maximum suppression by its definition, pair by pair."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        for j in kept:
            (a, b, c, d), (e, f, g, h) = boxes[i], boxes[j]
            shared = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
            if shared / ((c - a) * (d - b) + (g - e) * (h - f) - shared) > largest:
                break
        else:
            kept.append(i)
    return kept


@pytest.mark.parametrize("largest", [0.0, 0.3, 0.7, 1.0])
def test_overlapping_boxes_give_way_to_better_ones(largest):
    corner, side = RANDOM.integers(0, 12, (60, 2)), RANDOM.integers(1, 12, (60, 2))
    boxes, scores = np.concatenate([corner, corner + side], axis=1), RANDOM.uniform(size=60)
    kept = without_overlaps(boxes, scores, largest)

    assert kept.tolist() == greedy(boxes.tolist(), scores, largest)
    assert without_overlaps(boxes[:0], scores[:0], largest).tolist() == []


# ---- selection


def proposals(**changes):
    """Four boxes in a picture of 20 x 10, the third a copy of the first."""
    boxes = np.array([[0, 0, 10, 5], [10, 5, 20, 10], [0, 0, 10, 5], [3, 2, 5, 9]])
    given = {"boxes": boxes, "quality": np.array([0.9, 0.95, 0.92, 0.99]), "stability": np.full(4, 0.99)}
    return Proposals(**given | {"areas": np.array([50, 50, 50, 14])} | changes)


@pytest.mark.parametrize(
    ("limits", "changes", "expected"),
    [
        ({}, {}, [3, 1, 2]),
        ({"count": 2}, {}, [3, 1]),
        ({"smallest_quality": 0.92}, {}, [3, 1]),
        ({}, {"stability": np.array([0.99, 0.95, 0.96, 0.9])}, [2]),
        ({"smallest_area": 0.1}, {}, [1, 2]),
        ({"largest_area": 0.1}, {}, [3]),
        ({"largest_overlap": 1.0}, {}, [3, 1, 2, 0]),
        ({}, {"areas": np.zeros(4, int)}, []),
    ],
)
def test_each_limit_keeps_out_what_it_should(limits, changes, expected):
    found = proposals(**changes)
    boxes, mask = Selection(**limits)(found, 10, 20)

    np.testing.assert_array_equal(np.flatnonzero(mask), np.arange(len(expected)))
    np.testing.assert_allclose(boxes[mask], found.boxes[expected] / (20, 10, 20, 10))
    assert not boxes[~mask].any()


def test_areas_that_do_not_rise_are_refused():
    with pytest.raises(InputError, match=r"areas 0.5 to 0.2"):
        Selection(smallest_area=0.5, largest_area=0.2)


# ---- the whole

OBJECTS = [(4, 6, 16, 14), (20, 22, 36, 30), (26, 2, 38, 12)]
"""Left, upper, right, lower, in pixels of the picture, which is the encoder's size."""


class Planted(nnx.Module):
    """In the place of SAM: the mask at a point is the rectangle under it, as well as the whole picture, and a speck."""

    def __init__(self, config):
        self.config = config

    def encode(self, images):
        missing = [(0, 40 - side) for side in images.shape[1:3]]
        tokens = jnp.pad(jnp.mean(images.astype(jnp.float32), axis=-1), ((0, 0), *missing))
        return TokenGrid(tokens=tokens[..., None], rows=1, columns=1)

    def masks(self, image, prompts, *, multimask=True):
        point = prompts.points[0, 0, 0]
        y, x = jnp.meshgrid(jnp.arange(40) + 0.5, jnp.arange(40) + 0.5, indexing="ij")
        inside = jnp.zeros((40, 40), bool)
        for left, upper, right, lower in OBJECTS:
            hit = (point[0] > left) & (point[0] < right) & (point[1] > upper) & (point[1] < lower)
            inside |= hit & (x > left) & (x < right) & (y > upper) & (y < lower)
        whole, speck = jnp.ones_like(inside), (x < 1) & (y < 1)
        logits = jnp.where(jnp.stack([inside, whole, speck]), 9.0, -9.0)
        brightness = image.tokens.reshape(40, 40)[point[1].astype(int), point[0].astype(int)]
        quality = jnp.array([0.9, 0.99, 0.99]) + brightness / 1e4
        return sam.Masks(logits[None, None], quality[None, None])


def planted_detector(points, **limits):
    structure, parameters = split(Planted(sam.tiny()))
    return BoxDetector(
        structure,
        parameters,
        image_size=40,
        generation=MaskGeneration(points=points, points_at_once=7),
        selection=Selection(count=5, **limits),
        batch_size=2,
    )


def test_planted_objects_give_exactly_their_boxes_the_brightest_first():
    picture = np.zeros((40, 40, 3), np.uint8)
    for number, (left, upper, right, lower) in enumerate(OBJECTS):
        picture[upper:lower, left:right] = 50 * (number + 1)
    boxes, mask = planted_detector(8)([picture, np.zeros_like(picture), picture])

    assert mask.sum(1).tolist() == [3, 3, 3]
    np.testing.assert_array_equal(boxes[0, :3], np.array(OBJECTS[::-1], np.float32) / 40)
    np.testing.assert_array_equal(boxes[2], boxes[0])
    assert sorted(boxes[1, :3].tolist()) == sorted((np.array(OBJECTS, np.float32) / 40).tolist())


def test_objects_between_the_points_of_the_grid_are_not_found():
    assert planted_detector(1)([np.zeros((40, 40, 3), np.uint8)])[1].sum() == 0


def test_pictures_of_several_shapes_have_boxes_in_shares_of_their_own():
    """The second is wider than high: what lies in the encoder's padding is cut off."""
    sizes = [(80, 80), (24, 40), (40, 40), (80, 80)]
    boxes, mask = planted_detector(8, smallest_area=0.01)([np.zeros((*size, 3), np.uint8) for size in sizes])

    square = np.array(OBJECTS, np.float32) / 40
    wide = np.minimum(OBJECTS, (40, 24, 40, 24)) / np.float32([40, 24, 40, 24])
    for found, given, expected in zip(boxes, mask, (square, wide, square, square)):
        assert sorted(found[given].tolist()) == sorted(expected.astype(np.float32).tolist())


def test_proposals_of_a_picture_are_those_of_transformers(processor, tmp_path):
    """SAM itself with random weights, a picture that is enlarged and padded; without thresholds all are kept."""
    from transformers import SamConfig, SamModel

    model = randomize(SamModel(SamConfig(**sam.tiny().settings())), scale=0.5)
    with torch.no_grad():
        model.mask_decoder.upscale_conv2.bias.sub_(2)  # masks of some pixels, not of nearly all
    model.save_pretrained(tmp_path)
    ours, picture = ours_from(tmp_path, "sam", sam.tiny()), np.random.default_rng(3).integers(0, 256, (18, 30, 3))
    picture = picture.astype(np.uint8)
    given = processor(picture, return_tensors="pt")
    points = torch.tensor(point_grid(3) * given["reshaped_input_sizes"][0].tolist()[::-1])[None, :, None].float()
    with torch.no_grad():
        answer = model(pixel_values=given["pixel_values"], input_points=points)
    masks = processor.post_process_masks(answer.pred_masks, [(18, 30)], given["reshaped_input_sizes"], binarize=False)
    limits = {"pred_iou_thresh": -1e9, "stability_score_thresh": -1e9}
    _, quality, boxes = processor.filter_masks(masks[0], answer.iou_scores[0], (18, 30), (0, 0, 30, 18), **limits)

    generation = MaskGeneration(points=3, points_at_once=4)
    propose = jax.jit(lambda model, images: generation(model, images, (18, 30)), compiler_options=AS_USERS_COMPILE)
    found = jax.tree.map(lambda array: np.asarray(array[0]), propose(ours, jnp.asarray(fit(picture, 40))[None]))
    seen = found.areas > 0
    assert seen.sum() > 9
    assert relative_error(found.quality, quality) <= BAR
    np.testing.assert_array_equal(found.boxes[seen] - [0, 0, 1, 1], boxes.numpy()[seen])
    np.testing.assert_array_equal(found.areas, (masks[0] > 0).sum((-1, -2)).flatten())
    assert len(np.unique(found.boxes, axis=0)) > 9


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"largest_overlap": -1.0}, "largest-overlap is -1.0: a share"),
        ({"smallest_quality": 88.0}, "smallest-quality is 88.0: a share"),
        ({"count": 0}, "count is 0: at least 1"),
        ({"smallest_area": 0.8}, "rising shares"),
    ],
)
def test_limits_that_let_nothing_or_everything_through_are_refused(limits, message):
    with pytest.raises(InputError, match=message):
        Selection(**limits)
