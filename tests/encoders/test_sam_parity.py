"""SAM against transformers' SamModel, through a saved folder, with wrong twins that must fail."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.parity import BAR, assert_round_trip, num_parameters, num_torch_parameters, randomize, relative_error
from tests.parity import ours_from as read
from vla_jax.convert.families.sam import DEFAULTS, FAMILY
from vla_jax.encoders import sam
from vla_jax.encoders.sam import Prompts, from_settings, image_encoder, mask_decoder
from vla_jax.encoders.vit import IMAGENET_MEAN, IMAGENET_STD
from vla_jax.nn.stack import Taps
from vla_jax.types import InputError

torch = pytest.importorskip("torch")

CONFIG = sam.tiny()
DEPTH, SIZE, GRID = 6, 40, 10
FAR = 100 * BAR


def torch_config(settings):
    from transformers import SamConfig

    return SamConfig(**settings, attn_implementation="eager")


@pytest.fixture(scope="module")
def theirs():
    from transformers import SamModel

    model = randomize(SamModel(torch_config(CONFIG.settings())), scale=0.2)
    with torch.no_grad():  # frequencies that tell places apart, and relative positions that weigh
        model.shared_image_embedding.positional_embedding.mul_(5)
        for layer in model.vision_encoder.layers:
            layer.attn.rel_pos_h.mul_(3)
            layer.attn.rel_pos_w.mul_(3)
    return model


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("sam")
    theirs.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def ours(folder):
    return read(folder, "sam", CONFIG)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8))


def pixels_of(images):
    """Normalised, then padded with zeros on the right and below."""
    pixels = ((np.asarray(images) / 255.0 - IMAGENET_MEAN) / IMAGENET_STD).transpose(0, 3, 1, 2).astype(np.float32)
    height, width = pixels.shape[2:]
    return torch.tensor(np.pad(pixels, ((0, 0), (0, 0), (0, SIZE - height), (0, SIZE - width))))


def channels_last(image):
    """[b, d, r, c] -> [b, n, d]."""
    return image.flatten(2).transpose(1, 2)


@pytest.fixture(scope="module")
def expected(theirs, images):
    with torch.no_grad():
        return theirs.vision_encoder(pixels_of(images), output_hidden_states=True)


@pytest.fixture(scope="module")
def encoded(ours, images):
    return jax.jit(lambda model, images: model.encode(images, taps=Taps(range(DEPTH), (4, 2))))(ours, images)


def embedding_error(model, expected, images) -> float:
    """Compiled anew at each call, for what was patched."""
    tokens = jax.jit(lambda model, images: model.encode(images).tokens)(model, images)
    return relative_error(tokens, channels_last(expected.last_hidden_state))


# ---- image encoder


def test_every_layer_and_the_image_embedding(ours, encoded, expected, images):
    states = [state.flatten(1, 2) for state in expected.hidden_states]
    found = [jax.jit(lambda model, images: model.image_encoder.embed(images))(ours, images), *encoded.layers]

    assert len(states) == len(found) == DEPTH + 1
    assert [relative_error(a, b) <= BAR for a, b in zip(found, states)] == [True] * (DEPTH + 1)
    assert relative_error(encoded.tokens, channels_last(expected.last_hidden_state)) <= BAR
    assert (encoded.rows, encoded.columns) == (GRID, GRID)


@pytest.mark.parametrize("size", [(SIZE, 27), (21, SIZE)])
def test_what_a_picture_lacks_is_zero_after_normalisation(theirs, ours, images, size):
    cut = images[:, : size[0], : size[1]]
    with torch.no_grad():
        wanted = theirs.vision_encoder(pixels_of(cut))

    assert embedding_error(ours, wanted, cut) <= BAR
    black = jnp.zeros_like(images).at[:, : size[0], : size[1]].set(cut)
    assert embedding_error(ours, wanted, black) > FAR


def test_taps_give_queries_keys_and_values_in_their_place(theirs, encoded, images):
    seen = {}

    def keep(layer):
        def hook(module, inputs, output):
            qkv = output.reshape(*output.shape[:3], 3, 3, 8)
            side = output.shape[1]
            across = -(-GRID // side)
            whole = qkv.reshape(2, across, across, side, side, 3, 3, 8).transpose(2, 3)
            whole = whole.reshape(2, across * side, across * side, 3, 3, 8)[:, :GRID, :GRID]
            seen[layer] = whole.reshape(2, GRID * GRID, 3, 3, 8)

        return theirs.vision_encoder.layers[layer].attn.qkv.register_forward_hook(hook)

    handles = [keep(layer) for layer in (4, 2)]
    with torch.no_grad():
        theirs.vision_encoder(pixels_of(images))
    for handle in handles:
        handle.remove()

    for place, layer in enumerate((4, 2)):
        for number, found in enumerate(encoded.projections):
            assert relative_error(found[place], seen[layer][:, :, number]) <= BAR


def test_pictures_of_other_sizes_and_unknown_layers_are_refused(ours, images):
    with pytest.raises(InputError, match="21 x 30 pixels; SAM expects a longer side of 40"):
        ours.encode(images[:, :21, :30])
    with pytest.raises(InputError, match=r"layers \[6\]"):
        ours.encode(images, taps=Taps((6,)))


# ---- prompts and masks

POINTS = np.array([[[[3.0, 20.5]], [[31.0, 7.0]]], [[[0.0, 0.0]], [[39.0, 12.0]]]], np.float32)
SEVERAL = np.random.default_rng(1).uniform(0, SIZE, (2, 3, 4, 2)).astype(np.float32)
LABELS = np.array([[[1, 0, 1, -10], [1, 1, 0, 0], [1, -1, -10, -10]]] * 2)
BOXES = np.array([[[2, 5, 20, 31], [8, 1, 33, 9], [0, 0, 39, 39]], [[4, 4, 6, 9], [1, 2, 3, 4], [9, 8, 30, 20]]], float)
BOXES = BOXES.astype(np.float32)
MASKS = np.random.default_rng(2).normal(size=(2, SIZE, SIZE)).astype(np.float32) * 3
PROMPTS = {
    "a point each": Prompts(points=POINTS, labels=np.ones((2, 2, 1), int)),
    "points without labels": Prompts(points=POINTS),
    "several points": Prompts(points=SEVERAL, labels=LABELS),
    "boxes": Prompts(boxes=BOXES),
    "points and boxes": Prompts(points=SEVERAL, labels=LABELS, boxes=BOXES),
    "points and a mask": Prompts(points=SEVERAL, labels=LABELS, masks=MASKS),
    "a mask": Prompts(masks=MASKS),
}


def their_masks(model, expected, prompts, multimask):
    def tensor(array):
        return None if array is None else torch.tensor(np.asarray(array))

    points, labels, boxes, masks = map(tensor, prompts)
    with torch.no_grad():
        return model(
            image_embeddings=expected.last_hidden_state,
            input_points=points,
            input_labels=labels,
            input_boxes=boxes,
            input_masks=None if masks is None else masks[:, None],
            multimask_output=multimask,
        )


def their_prompt(model, prompts):
    points, labels, boxes, masks = (None if a is None else torch.tensor(np.asarray(a)) for a in prompts)
    labels = torch.ones(points.shape[:-1]) if points is not None and labels is None else labels
    with torch.no_grad():
        return model.get_prompt_embeddings(points, labels, boxes, None if masks is None else masks[:, None])


def errors(model, theirs, encoded, expected, prompts) -> dict[str, float]:
    """Of the prompt's tokens, and of masks and their quality with and without several masks a prompt."""

    def answers(model, image, prompts):
        tokens = model.prompt_encoder(prompts, model.features)
        return tokens, [model.masks(image, prompts, multimask=several) for several in (True, False)]

    prompts = jax.tree.map(jnp.asarray, prompts)
    tokens, found = jax.jit(answers)(model, encoded, prompts)
    sparse, dense = their_prompt(theirs, prompts)
    dense = channels_last(dense)
    differences = {"dense": relative_error(np.broadcast_to(tokens.dense, dense.shape), dense)}
    if sparse is None:
        assert tokens.sparse.shape[1:3] == (1, 0)
    else:
        differences["sparse"] = relative_error(tokens.sparse, sparse)
    for several, masks in zip((True, False), found, strict=True):
        wanted = their_masks(theirs, expected, prompts, several)
        assert wanted.pred_masks.shape[2:] == (3 if several else 1, SIZE, SIZE)
        differences[f"masks {several}"] = relative_error(masks.logits, wanted.pred_masks)
        differences[f"quality {several}"] = relative_error(masks.quality, wanted.iou_scores)
    return differences


@pytest.mark.parametrize("kind", PROMPTS)
def test_prompt_tokens_and_masks(theirs, ours, encoded, expected, kind):
    found = errors(ours, theirs, encoded, expected, PROMPTS[kind])
    assert max(found.values()) <= BAR, found


# ---- wrong twins: each must be far over the bar


def test_scaled_queries_and_swapped_or_resampled_tables_fail(ours, expected, images, monkeypatch):
    assert embedding_error(ours, expected, images) <= BAR

    swapped = nnx.clone(ours)
    for blocks in (swapped.image_encoder.window_blocks, swapped.image_encoder.global_blocks):
        rows, columns = blocks.row_positions[...], blocks.column_positions[...]
        blocks.row_positions[...], blocks.column_positions[...] = columns, rows
    assert embedding_error(swapped, expected, images) > FAR

    resampled = nnx.clone(ours)
    table = resampled.image_encoder.global_blocks.row_positions
    narrow = ours.image_encoder.window_blocks.row_positions[...][:2]
    table[...] = jax.image.resize(narrow, table.shape, "linear")
    assert embedding_error(resampled, expected, images) > FAR

    right = image_encoder.SamBlock._position_scores
    monkeypatch.setattr(image_encoder.SamBlock, "_position_scores", lambda self, q: right(self, q * 8**-0.5))
    assert embedding_error(ours, expected, images) > FAR


def test_padding_that_the_norm_saw_fails(ours, expected, images, monkeypatch):
    """The norm of a zero is its bias, not zero."""
    right = image_encoder.SamBlock._windows

    def padded_before(self, x):
        inside = right(self, jnp.ones_like(x))
        return jnp.where(inside > 0, right(self, x), self.block.attention_norm.bias[...])

    monkeypatch.setattr(image_encoder.SamBlock, "_windows", padded_before)
    assert embedding_error(ours, expected, images) > FAR


def test_padding_that_nobody_attends_to_fails(ours, expected, images, monkeypatch):
    right = image_encoder.attend

    def masked(query, key, value, bias):
        side = int(np.sqrt(query.shape[1]))
        if side == GRID:
            return right(query, key, value, bias=bias)
        inside = np.pad(np.ones((GRID, GRID), bool), (0, -GRID % side)).reshape(3, side, 3, side)
        inside = np.tile(inside.transpose(0, 2, 1, 3).reshape(9, 1, -1), (2, side * side, 1))
        return right(query, key, value, jnp.asarray(inside), bias=bias)

    monkeypatch.setattr(image_encoder, "attend", masked)
    assert embedding_error(ours, expected, images) > FAR


@pytest.mark.parametrize("part", ["image_encoder", "prompt_encoder", "mask_decoder"])
def test_the_other_activation_fails(folder, theirs, expected, encoded, images, part):
    if part == "image_encoder":
        vit = dataclasses.replace(CONFIG.image_encoder.vit, activation="relu")
        changed = dataclasses.replace(CONFIG.image_encoder, vit=vit)
    else:
        activation = "relu" if part == "prompt_encoder" else "gelu"
        changed = dataclasses.replace(getattr(CONFIG, part), activation=activation)
    wrong = read(folder, "sam", dataclasses.replace(CONFIG, **{part: changed}), checked=False)

    if part == "image_encoder":
        assert embedding_error(wrong, expected, images) > FAR
    else:
        assert errors(wrong, theirs, encoded, expected, PROMPTS["points and a mask"])["masks True"] > FAR


def test_points_elsewhere_and_a_residual_in_the_first_block_fail(theirs, ours, encoded, expected, monkeypatch):
    """The first block as all others are: with positions and a residual."""
    prompts, right = PROMPTS["several points"], mask_decoder.TwoWayBlock.__call__
    shifted = nnx.clone(ours)
    shifted.prompt_encoder.image_size = SIZE + 1
    assert errors(shifted, theirs, encoded, expected, prompts)["sparse"] > FAR

    monkeypatch.setattr(
        mask_decoder.TwoWayBlock, "__call__", lambda self, *given, is_first: right(self, *given, is_first=False)
    )
    assert errors(ours, theirs, encoded, expected, prompts)["masks True"] > FAR


def test_enlargements_whose_kernels_are_turned_fail(theirs, ours, encoded, expected):
    wrong = nnx.clone(ours)
    wrong.mask_decoder.enlarge_out.kernel[...] = ours.mask_decoder.enlarge_out.kernel[...][::-1, ::-1]

    assert errors(wrong, theirs, encoded, expected, PROMPTS["points without labels"])["masks True"] > FAR


def test_another_epsilon_fails_on_inputs_of_small_variance(theirs, images, tmp_path):
    small = copy.deepcopy(theirs)
    with torch.no_grad():
        for name in ("patch_embed.projection.weight", "patch_embed.projection.bias"):
            small.vision_encoder.get_parameter(name).mul_(1e-3)
        small.vision_encoder.pos_embed.mul_(1e-3)
        wanted = small.vision_encoder(pixels_of(images))
    small.save_pretrained(tmp_path)
    vit = dataclasses.replace(CONFIG.image_encoder.vit, epsilon=1e-5)
    wrong = dataclasses.replace(CONFIG, image_encoder=dataclasses.replace(CONFIG.image_encoder, vit=vit))

    assert embedding_error(read(tmp_path, "sam", CONFIG), wanted, images) <= BAR
    assert embedding_error(read(tmp_path, "sam", wrong, checked=False), wanted, images) > FAR


# ---- weights and settings


def test_weights_go_out_as_they_came_in(folder, ours):
    assert_round_trip(folder, "sam", ours)


def test_settings_are_those_of_config_json(theirs):
    settings = FAMILY.settings(theirs.config.to_dict())

    assert from_settings(settings) == CONFIG
    for section, found in CONFIG.settings().items():
        assert {key: settings[section][key] for key in found} == found
    assert from_settings(FAMILY.settings({})) == sam.sam_b()


def test_the_defaults_are_those_of_transformers():
    theirs = torch_config({}).to_dict()
    for section, defaults in FAMILY.settings({}).items():
        assert DEFAULTS[section].keys() == defaults.keys()
        for key, value in defaults.items():
            found = theirs[section][key]
            assert (list(found) if isinstance(found, tuple) else found) == value, key


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("vision_config", "use_rel_pos", False, "use_rel_pos is False, expected True"),
        ("vision_config", "global_attn_indexes", [1, 5], r"global_attn_indexes is \[1, 5\], expected \[2, 5\]"),
        ("vision_config", "global_attn_indexes", [1, 2, 3, 5], "6 layers do not make 4 equal groups"),
        ("vision_config", "hidden_act", "mish", "hidden_act is 'mish', expected one of"),
        ("prompt_encoder_config", "image_size", 80, "image_size is 80, expected 40"),
        ("mask_decoder_config", "hidden_size", 32, r"widths \(40, 40, 32\)"),
    ],
)
def test_what_no_release_has_is_refused_by_name(section, key, value, message):
    settings = CONFIG.settings()
    settings[section] = settings[section] | {key: value}
    with pytest.raises(InputError, match=message):
        from_settings(FAMILY.settings(settings))


@pytest.mark.parametrize(("preset", "millions"), [("sam_b", 93.7), ("sam_l", 312.3), ("sam_h", 641.1)])
def test_presets_have_the_releases_parameters(preset, millions):
    from transformers import SamModel

    config = sam.PRESETS[preset]()
    count = num_parameters(config)

    assert count == num_torch_parameters(lambda: SamModel(torch_config(config.settings())))
    assert round(count / 1e6, 1) == millions
