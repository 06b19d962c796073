"""SigLIP against transformers' SiglipModel and its halves, through the importer, with wrong twins that must fail."""

import copy
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.torch import save_file

from tests.encoders.torch_pictures import assert_equal_inside, everything, heads, outputs_of, pictures, pixels
from tests.parity import (
    BAR,
    assert_round_trip,
    num_parameters,
    num_torch_parameters,
    ours_from,
    randomize,
    relative_error,
)
from vla_jax.convert.families.siglip import FAMILY
from vla_jax.convert.save import disk_arrays, save
from vla_jax.encoders.siglip import PRESETS, from_settings, tiny
from vla_jax.nn.stack import Taps
from vla_jax.parameters import split
from vla_jax.types import InputError

torch = pytest.importorskip("torch")

CONFIG = tiny()
CROPPED = dataclasses.replace(tiny(image_size=44), text=None, projection_width=None)
"""The vision half alone, for pictures of five patches and a rest."""
HALF = (0.5, 0.5, 0.5)
NO_TOKENS = {"bos_token_id": 1, "eos_token_id": 2}
"""Within the tiny vocabulary."""


def build(settings):
    from transformers import SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

    if "text_config" not in settings:
        return SiglipVisionModel(SiglipVisionConfig(**settings["vision_config"]))
    return SiglipModel(SiglipConfig(**settings | {"text_config": settings["text_config"] | NO_TOKENS}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(ours, theirs, folder)"""
    theirs, folder = randomize(build(CONFIG.settings())), tmp_path_factory.mktemp("siglip")
    theirs.save_pretrained(folder)
    return ours_from(folder, "siglip", CONFIG), theirs, folder


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    theirs, folder = randomize(build(CROPPED.settings())), tmp_path_factory.mktemp("vision")
    theirs.save_pretrained(folder)
    return ours_from(folder, "siglip", CROPPED), theirs, folder


@pytest.fixture(scope="module")
def ids():
    return jnp.asarray(np.random.default_rng(0).integers(3, 50, (3, 9)), jnp.int32)


def their_vision(model, images):
    with torch.no_grad():
        return model(pixels(images, HALF, HALF), interpolate_pos_encoding=True, output_hidden_states=True)


def projections_of(layers, num_heads, run):
    return [
        [heads(x, num_heads) for x in outputs_of([getattr(layer.self_attn, name) for layer in layers], run)]
        for name in ("q_proj", "k_proj", "v_proj")
    ]


def vision_error(ours, theirs, images) -> float:
    grid = jax.jit(lambda images: ours.vision(images))(images)
    return relative_error(grid.tokens, their_vision(theirs, images).last_hidden_state)


@pytest.mark.parametrize("size", [(40, 40), (24, 56)])
def test_patches_hidden_states_and_projections(whole, size):
    ours, theirs, _ = whole
    model, images = theirs.vision_model, pictures(*size)
    grid, embedded = everything(ours.vision, images)
    found = their_vision(model, images)

    assert grid.prefix is None
    assert relative_error(grid.tokens, found.last_hidden_state) <= BAR
    assert relative_error(ours.pooling(grid.tokens), found.pooler_output) <= BAR
    states = outputs_of([model.embeddings, *model.encoder.layers], lambda: their_vision(model, images))
    projections = projections_of(model.encoder.layers, 2, lambda: their_vision(model, images))
    assert_equal_inside(grid, embedded, states, projections)


def test_text_tokens_hidden_states_and_projections(whole, ids):
    ours, theirs, _ = whole
    model, depth = theirs.text_model, CONFIG.text.num_layers
    mask = jnp.arange(9)[None] >= jnp.array([[0], [2], [4]])

    def run():
        return model(input_ids=torch.tensor(np.asarray(ids)).long(), attention_mask=torch.tensor(np.asarray(mask)))

    found = jax.jit(lambda ids: ours.text.hidden(ids, mask, taps=Taps(range(depth), range(depth))))(ids)
    states = outputs_of(model.encoder.layers, run)
    for layer, state in enumerate(states):
        assert relative_error(found.layers[layer], state) <= BAR
    for mine, expected in zip(found.projections, projections_of(model.encoder.layers, 3, run), strict=True):
        for layer, projection in enumerate(expected):
            assert relative_error(mine[layer], projection) <= BAR
    with torch.no_grad():
        assert relative_error(ours.text(ids, mask), run().last_hidden_state) <= BAR


def test_embeddings_and_logits(whole, ids):
    ours, theirs, _ = whole
    images = pictures(40, 40)
    with torch.no_grad():
        found = theirs(input_ids=torch.tensor(np.asarray(ids)).long(), pixel_values=pixels(images, HALF, HALF))

    assert relative_error(ours.vision_embedding(images), found.image_embeds) <= BAR
    assert relative_error(ours.text_embedding(ids), found.text_embeds) <= BAR
    assert relative_error(ours.logits(images, ids), found.logits_per_image) <= BAR


def test_a_vision_half_alone_of_pictures_with_a_rest(half):
    ours, theirs, _ = half
    images = pictures(44, 44)
    assert vision_error(ours, theirs, images) <= BAR
    assert relative_error(ours.pooling(ours.vision(images).tokens), their_vision(theirs, images).pooler_output) <= BAR


def test_every_tensor_goes_out_as_it_came(whole):
    ours, _, folder = whole
    assert_round_trip(folder, "siglip", ours)


def test_both_prefixes_are_read_and_transformers_reads_what_goes_out(half, tmp_path):
    ours, theirs, _ = half
    assert "embeddings.patch_embedding.weight" in theirs.state_dict()
    save(tmp_path, disk_arrays("siglip", split(ours)[1]))
    theirs.config.save_pretrained(tmp_path)

    again, report = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name
    read = dict(split(ours_from(tmp_path, "siglip", CROPPED))[1])
    for path, array in split(ours)[1].items():
        np.testing.assert_array_equal(read[path], array)


def test_a_file_of_both_halves_serves_either(whole):
    ours, _, folder = whole
    vision = ours_from(folder, "siglip", dataclasses.replace(CONFIG, text=None, projection_width=None))
    text = ours_from(folder, "siglip", dataclasses.replace(CONFIG, vision=None))
    np.testing.assert_array_equal(vision.pooling.query[...], ours.pooling.query[...])
    np.testing.assert_array_equal(text.text_head.kernel[...], ours.text_head.kernel[...])
    assert vision.text is text.vision is vision.logit_scale is None


@pytest.mark.parametrize("kind", ["whole", "half"])
def test_settings_say_what_config_json_says(kind, request):
    settings = FAMILY.settings(json.loads((request.getfixturevalue(kind)[2] / "config.json").read_text()))
    assert from_settings(settings) == {"whole": CONFIG, "half": CROPPED}[kind]
    assert from_settings(settings).settings() == settings


# ---- wrong twins


@pytest.mark.parametrize(
    ("wrong", "factor"),
    [({"activation": "gelu"}, 10), ({"activation": "quick_gelu"}, 100), ({"mean": (0.485, 0.456, 0.406)}, 100)],
    ids=["exact gelu", "quick gelu", "mean of ImageNet"],
)
def test_wrong_insides_fail(whole, wrong, factor):
    _, theirs, folder = whole
    config = dataclasses.replace(CONFIG, vision=dataclasses.replace(CONFIG.vision, **wrong))
    ours = ours_from(folder, "siglip", config, checked=False)
    assert vision_error(ours, theirs.vision_model, pictures(40, 40)) > factor * BAR


def test_wrong_epsilon_fails_on_inputs_of_small_variance(half, tmp_path):
    small = copy.deepcopy(half[1])
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            if "embedding" in name:
                parameter.mul_(1e-3)
    small.save_pretrained(tmp_path)
    config = dataclasses.replace(CROPPED, vision=dataclasses.replace(CROPPED.vision, epsilon=1e-5))
    images = pictures(44, 44)
    assert vision_error(ours_from(tmp_path, "siglip", CROPPED), small, images) <= BAR
    assert vision_error(ours_from(tmp_path, "siglip", config, checked=False), small, images) > 100 * BAR


def test_a_causal_text_fails(whole, ids, monkeypatch):
    ours, theirs, _ = whole
    with torch.no_grad():
        expected = theirs.text_model(input_ids=torch.tensor(np.asarray(ids)).long()).last_hidden_state
    mask = jnp.ones(ids.shape, bool)
    assert relative_error(ours.text(ids, mask), expected) <= BAR
    monkeypatch.setattr(ours.text, "config", dataclasses.replace(CONFIG.text, causal=True))
    assert relative_error(ours.text(ids, mask), expected) > 100 * BAR


def test_queries_keys_and_values_swapped_in_the_fused_tensor_fail(whole, tmp_path):
    from safetensors.torch import load_file

    _, theirs, folder = whole
    state = load_file(folder / "model.safetensors")
    for name in ("weight", "bias"):
        key = f"vision_model.head.attention.in_proj_{name}"
        query, first, second = state[key].chunk(3)
        state[key] = torch.cat([first, query, second])
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    ours, images = ours_from(tmp_path, "siglip", CONFIG), pictures(40, 40)
    pooled = ours.pooling(ours.vision(images).tokens)
    assert relative_error(pooled, their_vision(theirs.vision_model, images).pooler_output) > 100 * BAR


# ---- refusals and sizes


def test_what_no_release_has_is_refused_by_name():
    settings = CONFIG.settings()
    vision = settings["vision_config"] | {"hidden_act": "gelu"}
    with pytest.raises(InputError, match="hidden_act is 'gelu', expected 'gelu_pytorch_tanh'"):
        from_settings(settings | {"vision_config": vision})


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_of_the_presets(name):
    config = PRESETS[name]()
    assert num_parameters(config) == num_torch_parameters(lambda: build(config.settings()))


def test_sizes_that_releases_differ_in():
    assert PRESETS["siglip_so400m14_384"]().vision.grid_size == 27
    assert PRESETS["siglip_so400m14_384"]().text.max_length == 64
    assert PRESETS["siglip_so400m14_224"]().text.max_length == 16
    assert PRESETS["siglip2_so400m14_224"]().text.vocab_size == 256_000
