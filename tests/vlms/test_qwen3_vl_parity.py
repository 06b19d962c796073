"""Qwen3-VL against transformers: pictures among the words, with wrong twins that must fail."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tests.encoders.torch_pictures import pictures
from tests.language.decoder_twins import as_torch, at_valid
from tests.parity import BAR, assert_round_trip, num_parameters, num_torch_parameters, ours_from, relative_error
from tests.vlms.qwen3_vl_twins import (
    CONFIG,
    FAMILY,
    Twins,
    blocked_rotation,
    build_theirs,
    build_twins,
    config_on_disk,
    rotate_neighbours,
    their_patches,
)
from vla_jax.convert.rules import find_family
from vla_jax.language import generation
from vla_jax.language import qwen3_vl as text_module
from vla_jax.language.generation import DecodingConfig
from vla_jax.language.picture_positions import next_position, picture_positions
from vla_jax.nn import attention as attention_module
from vla_jax.nn import masks
from vla_jax.nn.stack import Taps
from vla_jax.types import InputError
from vla_jax.vlms import qwen3_vl

torch = pytest.importorskip("torch")

FAR = 100 * BAR
DEPTH = CONFIG.language.decoder.num_layers
IMAGE = CONFIG.image_id
IMAGES = pictures(16, 24)  # 2 x 3 merged patches
NUM_SEEN = 6
EVERY = Taps(range(DEPTH - 1))


@pytest.fixture(scope="module")
def twins(tmp_path_factory) -> Twins:
    return build_twins(tmp_path_factory.mktemp("qwen3_vl"))


def texts(*, left: bool) -> tuple[np.ndarray, np.ndarray]:
    """Text before and after each picture, of unequal lengths, padded."""
    rows = [[3, 7, *[IMAGE] * NUM_SEEN, 5, 9, 11], [4, *[IMAGE] * NUM_SEEN, 8, 6]]
    longest = max(map(len, rows))
    ids, valid = np.zeros((2, longest), np.int32), np.zeros((2, longest), bool)
    for row, own in enumerate(rows):
        where = slice(longest - len(own), None) if left else slice(len(own))
        ids[row, where], valid[row, where] = own, True
    return ids, valid


def their_states(theirs, ids, valid, images=IMAGES):
    """What each layer reads, the last hidden state, logits, positions."""
    patches, grid = their_patches(images)
    ids, valid, kinds = as_torch(ids, valid, np.asarray(ids) == IMAGE)
    seen: list[torch.Tensor] = []
    layers, handles = theirs.model.language_model.layers, []
    for layer in layers:
        keep = lambda module, inputs, named: seen.append((inputs or [named["hidden_states"]])[0].clone())  # noqa: E731
        handles.append(layer.register_forward_pre_hook(keep, with_kwargs=True))
    given = {"attention_mask": valid, "mm_token_type_ids": kinds, "image_grid_thw": grid}
    with torch.no_grad():
        last = theirs.model(input_ids=ids, pixel_values=patches, **given).last_hidden_state
        logits = theirs.lm_head(last)
        positions, _ = theirs.model.get_rope_index(ids, **given)
    for handle in handles:
        handle.remove()
    return [*seen, last], logits, positions


def our_states(ours, ids, valid, images=IMAGES, *, change=lambda inputs: inputs):
    """As `their_states`. Args: change: what a wrong twin makes of the inputs."""

    def run(ids, valid, images):
        inputs = change(ours.inputs(ids, valid, [ours.vision(images)]))
        out = ours.hidden(inputs, mask=masks.causal_over_valid(valid), taps=EVERY)
        return [inputs.embeddings, *out.layers, out.tokens], ours.logits(out.tokens), inputs.positions

    return jax.jit(run)(jnp.asarray(ids), jnp.asarray(valid), images)


@pytest.fixture(scope="module")
def expected(twins):
    return their_states(twins.theirs, *texts(left=True))


def error(twins, expected, **options) -> float:
    """Of the logits at valid positions."""
    ids, valid = texts(left=True)
    logits = our_states(twins.ours, ids, valid, **options)[1]
    return relative_error(at_valid(logits, valid), at_valid(expected[1], valid))


@pytest.mark.parametrize("left", [True, False])
def test_every_hidden_state_logits_and_positions_with_pictures_under_padding(twins, left):
    ids, valid = texts(left=left)
    states, logits, positions = their_states(twins.theirs, ids, valid)

    ours, our_logits, our_positions = our_states(twins.ours, ids, valid)

    np.testing.assert_array_equal(our_positions, positions)
    assert len(ours) == len(states) == DEPTH + 1
    for layer, (a, b) in enumerate(zip(ours, states, strict=True)):
        assert relative_error(at_valid(a, valid), at_valid(b, valid)) <= BAR, f"input of layer {layer}"
    assert relative_error(at_valid(our_logits, valid), at_valid(logits, valid)) <= BAR


@pytest.mark.parametrize("left", [True, False])
def test_positions_of_several_pictures_of_unequal_size(twins, left):
    grids = [(2, 3), (4, 2), (1, 1)]
    row = [1, *[IMAGE] * 6, 2, 3, *[IMAGE] * 8, 4, *[IMAGE], 5]
    ids = np.array([[*[0] * 3, *row] if left else [*row, *[0] * 3], [6, 7, 8, *row]], np.int32)
    valid = ids > 0
    given = as_torch(ids, ids == IMAGE)
    thw = torch.tensor([[1, 2 * r, 2 * c] for r, c in grids] * 2)
    expected, deltas = twins.theirs.model.get_rope_index(*given, image_grid_thw=thw, attention_mask=as_torch(valid))

    found = picture_positions(jnp.asarray(valid), jnp.asarray(ids == IMAGE), grids)

    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(next_position(found), deltas[:, 0] + as_torch(valid).sum(1))


def test_pictures_of_one_sample_lie_side_by_side_in_the_batch_axis(twins):
    ids = jnp.asarray([[1, *[IMAGE] * 6, 2, *[IMAGE] * 6, 3]])
    valid = jnp.ones(ids.shape, bool)
    states, logits, _ = their_states(twins.theirs, ids, valid)
    our_logits = our_states(twins.ours, ids, valid)[1]
    assert relative_error(our_logits, logits) <= BAR
    one, other = (twins.ours.vision(image[None]) for image in IMAGES)
    apart = twins.ours.inputs(ids, valid, [one, other])
    assert relative_error(apart.embeddings, states[0]) <= BAR


def test_a_span_and_the_next_are_the_whole_deepstack_included(twins):
    ours, (ids, valid) = twins.ours, texts(left=False)

    def run(ids, valid):
        inputs = ours.inputs(ids, valid, [ours.vision(IMAGES)])
        mask = masks.causal_over_valid(valid)
        whole = ours.hidden(inputs, mask=mask).tokens
        for span in [(0, 2), (2, 4), (4, None)]:
            inputs = inputs._replace(embeddings=ours.hidden(inputs, mask=mask, span=span).tokens)
        return whole, inputs.embeddings

    whole, parts = jax.jit(run)(ids, valid)
    np.testing.assert_allclose(parts, whole, rtol=1e-6, atol=1e-6)


def test_further_tokens_count_on_behind_the_text_and_get_nothing_from_deepstack(twins):
    ids, valid = texts(left=True)
    inputs = twins.ours.inputs(jnp.asarray(ids), jnp.asarray(valid), [twins.ours.vision(IMAGES)])
    longer = inputs.followed_by(jnp.zeros((2, 3, inputs.embeddings.shape[-1])))
    # Row 0: 2 words, a picture of 2 x 3, 3 words; row 1: 1 word, the picture, 2 words.
    np.testing.assert_array_equal(longer.positions[:, :, -3:], np.broadcast_to([[8, 9, 10], [6, 7, 8]], (3, 2, 3)))
    assert longer.valid[:, -3:].all()
    assert not longer.additions[:, :, -3:].any()


def test_image_tokens_that_are_not_as_many_as_the_pictures_are_nan(twins):
    ids, valid = (jnp.asarray(array) for array in texts(left=False))
    ids = ids.at[1, 1].set(8)
    embeddings = twins.ours.inputs(ids, valid, [twins.ours.vision(IMAGES)]).embeddings
    assert jnp.isfinite(embeddings[0]).all()
    assert jnp.isnan(embeddings[1]).all()


def test_greedy_decoding_with_a_picture_gives_the_tokens_of_generate(twins):
    ids, valid = texts(left=True)
    patches, grid = their_patches(IMAGES)
    given, mask, kinds = as_torch(ids, valid, ids == IMAGE)
    options = {"do_sample": False, "max_new_tokens": 32, "min_new_tokens": 32, "pad_token_id": 0, "eos_token_id": 98}
    twins.theirs.model.rope_deltas = None
    expected = twins.theirs.generate(
        input_ids=given,
        attention_mask=mask,
        pixel_values=patches,
        image_grid_thw=grid,
        mm_token_type_ids=kinds,
        suppress_tokens=[98],
        **options,
    )[:, ids.shape[1] :]

    def run(ids, valid):
        ours = twins.ours
        prompt = ours.prompt(ours.inputs(ids, valid, [ours.vision(IMAGES)]))
        prefix = generation.prefill(ours.language, prompt, 31)
        return generation.decode(ours.language, prefix, DecodingConfig(num_tokens=32))

    np.testing.assert_array_equal(jax.jit(run)(ids, valid), expected)


# ---- wrong twins: each must be far over the bar


def test_without_deepstack_fails(twins, expected):
    assert error(twins, expected) <= BAR
    wrong = lambda inputs: inputs._replace(additions=0 * inputs.additions)  # noqa: E731
    assert error(twins, expected, change=wrong) > FAR


def test_deepstack_before_the_layers_fails(twins, expected):
    def wrong(inputs):
        first, *others = inputs.additions
        return inputs._replace(embeddings=inputs.embeddings + first, additions=jnp.stack(others))

    assert error(twins, expected, change=wrong) > FAR


def test_deepstack_one_layer_late_fails(twins, expected):
    wrong = lambda inputs: inputs._replace(additions=jnp.pad(inputs.additions, ((1, 0), *[(0, 0)] * 3)))  # noqa: E731
    assert error(twins, expected, change=wrong) > FAR


def test_blocked_frequencies_fail(twins, expected, monkeypatch):
    monkeypatch.setattr(text_module, "multimodal_rotation", blocked_rotation)
    assert error(twins, expected) > FAR


def test_rotation_by_neighbours_fails(twins, expected, monkeypatch):
    monkeypatch.setattr(attention_module, "rotate", rotate_neighbours)
    assert error(twins, expected) > FAR


def test_text_positions_for_pictures_fail(twins, expected):
    def wrong(inputs):
        plain = jnp.maximum(jnp.cumsum(inputs.valid, axis=-1) - 1, 0)
        return inputs._replace(positions=jnp.broadcast_to(plain, inputs.positions.shape))

    assert error(twins, expected, change=wrong) > FAR


# ---- the way back, settings, sizes


def test_weights_go_out_as_they_came_in(twins):
    assert_round_trip(twins.folder, FAMILY, twins.ours)


def test_an_untied_head_is_read_and_goes_out(tmp_path):
    decoder = dataclasses.replace(CONFIG.language.decoder, tied_head=False)
    config = dataclasses.replace(CONFIG, language=dataclasses.replace(CONFIG.language, decoder=decoder))
    twins = build_twins(tmp_path, config)
    assert "lm_head.weight" in load_file(tmp_path / "model.safetensors")
    assert_round_trip(tmp_path, FAMILY, twins.ours)
    x = np.random.default_rng(0).normal(size=(3, decoder.width)).astype(np.float32)
    with torch.no_grad():
        assert relative_error(twins.ours.logits(jnp.asarray(x)), twins.theirs.lm_head(torch.tensor(x))) <= BAR


@pytest.mark.parametrize("half", ["vision", "language"])
def test_either_half_is_read_alone(twins, half):
    config = dataclasses.replace(CONFIG, **{"vision": None, "language": None, half: getattr(CONFIG, half)})
    alone = ours_from(twins.folder, FAMILY, config)
    if half == "vision":
        np.testing.assert_array_equal(alone.vision.merger.up.kernel[...], twins.ours.vision.merger.up.kernel[...])
    else:
        np.testing.assert_array_equal(alone.language.tokens[...], twins.ours.language.tokens[...])


def test_settings_come_back_from_config_json(twins):
    settings = find_family(FAMILY).settings(config_on_disk(twins.folder))
    assert qwen3_vl.from_settings(settings) == CONFIG
    assert qwen3_vl.from_settings(settings).settings() == CONFIG.settings()


def test_words_of_the_releases_own_config_are_read():
    """They say `rope_theta` and `rope_scaling`, and nothing of the vision tower's rotation."""
    settings = qwen3_vl.qwen3_vl_4b().settings()
    settings["vision_config"].pop("rope_theta")
    config = settings | {"model_type": "qwen3_vl"}
    assert qwen3_vl.from_settings(find_family(FAMILY).settings(config)) == qwen3_vl.qwen3_vl_4b()


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("text_config", "rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("text_config", "attention_bias", True),
        ("vision_config", "num_position_embeddings", 35),
        ("vision_config", "hidden_act", "swish"),
        ("vision_config", "patch_size", [4, 4]),
        ("vision_config", "temporal_patch_size", [2, 2]),
        ("vision_config", "rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}),
        ("vision_config", "rope_parameters", {"rope_theta": 1e4, "partial_rotary_factor": 0.5}),
    ],
)
def test_what_is_not_supported_is_refused_by_name(section, key, value):
    settings = CONFIG.settings()
    settings[section] = settings[section] | {key: value}
    with pytest.raises(InputError, match=rf"^config.json: .*{key}"):
        qwen3_vl.from_settings(find_family(FAMILY).settings(settings))


def test_a_tied_file_whose_head_differs_is_refused(twins, tmp_path):
    tensors = load_file(twins.folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((twins.folder / "config.json").read_text())
    with pytest.raises(InputError, match="lm_head"):
        ours_from(tmp_path, FAMILY, CONFIG)


@pytest.mark.parametrize(
    ("name", "total", "vision"),
    [
        ("qwen3_vl_2b", 2_127_532_032, 406_957_056),
        ("qwen3_vl_4b", 4_437_815_808, 415_347_712),
        ("qwen3_vl_8b", 8_767_123_696, 576_388_336),
    ],
)
def test_parameters_of_the_releases(name, total, vision):
    config = qwen3_vl.PRESETS[name]()
    assert num_parameters(config) == total == num_torch_parameters(lambda: build_theirs(config))
    assert num_parameters(config.vision) == vision
