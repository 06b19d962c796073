"""DINOv2 against transformers' Dinov2Model and Dinov2WithRegistersModel, with wrong twins that must fail."""

import copy
import dataclasses
import json

import jax
import numpy as np
import pytest

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
from vla_jax.convert.families.dinov2 import FAMILY
from vla_jax.encoders import dinov2, vit
from vla_jax.encoders.dinov2 import PRESETS, from_settings, tiny
from vla_jax.encoders.vit import LearnedPositions
from vla_jax.types import InputError

torch = pytest.importorskip("torch")

KINDS = {
    "plain": tiny(),
    "registers": tiny(num_registers=3),
    "giant": tiny(gated_mlp=True),
    "giant_registers": tiny(num_registers=3, gated_mlp=True),
}
SIZES = [(40, 40), (56, 24)]
"""The positions' own, and one with fewer rows and more columns."""


def build(settings):
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    if settings["model_type"] == "dinov2":
        return Dinov2Model(Dinov2Config(**settings))
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**settings))


def random_model(kind: str, folder):
    model = randomize(build(KINDS[kind].settings()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lambda1"):
                parameter.add_(1.0)
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """(ours, theirs, folder)"""
    theirs, folder = random_model(request.param, tmp_path_factory.mktemp(request.param))
    return ours_from(folder, "dinov2", KINDS[request.param]), theirs, folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return random_model("plain", tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def registers(tmp_path_factory):
    return random_model("registers", tmp_path_factory.mktemp("registers"))


def their_tokens(theirs, images):
    with torch.no_grad():
        return theirs(pixels(images)).last_hidden_state


def our_error(theirs, folder, config, images) -> float:
    """Of the final tokens, prefix and patches, of a model that may be a wrong twin."""
    ours = ours_from(folder, "dinov2", config, checked=False)
    grid = jax.jit(ours.__call__)(images)
    tokens = np.concatenate([grid.prefix, grid.tokens], axis=1)
    return relative_error(tokens, their_tokens(theirs, images))


@pytest.mark.parametrize("size", SIZES)
def test_tokens_hidden_states_and_projections(pair, size):
    ours, theirs, _ = pair
    images, count = pictures(*size), KINDS["plain"].num_heads
    grid, embedded = everything(ours, images)
    with torch.no_grad():
        found = theirs(pixels(images), output_hidden_states=True)
    attentions = [layer.attention for layer in theirs.encoder.layer]
    projections = [
        [heads(x, count) for x in outputs_of([getattr(a, name) for a in attentions], lambda: theirs(pixels(images)))]
        for name in ("q_proj", "k_proj", "v_proj")
    ]

    split = ours.config.prefix_length
    assert relative_error(grid.tokens, found.last_hidden_state[:, split:]) <= BAR
    assert relative_error(grid.prefix, found.last_hidden_state[:, :split]) <= BAR
    assert (grid.rows, grid.columns) == (size[0] // 8, size[1] // 8)
    assert_equal_inside(grid, embedded, found.hidden_states, projections)


def test_every_tensor_goes_out_as_it_came(pair):
    ours, _, folder = pair
    assert_round_trip(folder, "dinov2", ours)


def test_settings_say_what_config_json_says(pair):
    folder = pair[2]
    settings = FAMILY.settings(json.loads((folder / "config.json").read_text()))
    config = from_settings(settings)
    assert config.settings() == settings
    assert config in KINDS.values()


# ---- wrong twins


def test_the_other_antialias_fails(plain, registers):
    images = pictures(56, 24)
    for (theirs, folder), right, wrong in (
        (plain, "bicubic", "bicubic_antialias"),
        (registers, "bicubic_antialias", "bicubic"),
    ):
        config = KINDS["plain" if theirs is plain[0] else "registers"].vit
        with_method = [
            dataclasses.replace(config, positions=LearnedPositions(interpolation=method)) for method in (right, wrong)
        ]
        assert our_error(theirs, folder, with_method[0], images) <= BAR
        assert our_error(theirs, folder, with_method[1], images) > 100 * BAR


def test_bicubic_of_jax_image_fails(plain, monkeypatch):
    def resize(grid, rows, columns, method):
        return jax.image.resize(grid, (rows, columns, grid.shape[-1]), "cubic", antialias=False)

    monkeypatch.setattr(vit, "resize_grid", resize)
    assert our_error(*plain, KINDS["plain"].vit, pictures(56, 56)) > 100 * BAR


@pytest.mark.parametrize(("activation", "factor"), [("gelu_tanh", 10), ("quick_gelu", 100)])
def test_another_gelu_fails(plain, activation, factor):
    config = dataclasses.replace(KINDS["plain"].vit, activation=activation)
    assert our_error(*plain, config, pictures(40, 40)) > factor * BAR


def test_layer_scale_left_out_fails(plain):
    theirs, folder = plain
    ours, images = ours_from(folder, "dinov2", KINDS["plain"]), pictures(40, 40)
    for scale in (ours.stack.blocks.attention_scale, ours.stack.blocks.mlp_scale):
        scale[...] = np.ones_like(scale[...])
    assert relative_error(ours(images).tokens, their_tokens(theirs, images)[:, 1:]) > 100 * BAR


def test_gate_and_up_swapped_fail(tmp_path):
    theirs, _ = random_model("giant", tmp_path)
    ours = ours_from(tmp_path, "dinov2", KINDS["giant"])
    mlp = ours.stack.blocks.mlp
    mlp.gate, mlp.up = mlp.up, mlp.gate
    images = pictures(40, 40)
    assert relative_error(ours(images).tokens, their_tokens(theirs, images)[:, 1:]) > 100 * BAR


def test_wrong_epsilon_fails_on_inputs_of_small_variance(plain, tmp_path):
    small = copy.deepcopy(plain[0])
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            if "embeddings" in name:
                parameter.mul_(1e-3)
    small.save_pretrained(tmp_path)
    images, config = pictures(40, 40), KINDS["plain"].vit
    assert our_error(small, tmp_path, config, images) <= BAR
    assert our_error(small, tmp_path, dataclasses.replace(config, epsilon=1e-5), images) > 100 * BAR


# ---- refusals and sizes


def test_what_no_release_has_is_refused_by_name():
    settings = tiny().settings()
    with pytest.raises(InputError, match="hidden_act is 'relu', expected 'gelu'"):
        from_settings(settings | {"hidden_act": "relu"})
    with pytest.raises(InputError, match=r"layer_norm_eps is 1e-05, expected 1e-06"):
        from_settings(settings | {"layer_norm_eps": 1e-5})
    with pytest.raises(InputError, match=r"image_size is \[40, 48\], expected a positive integer"):
        from_settings(settings | {"image_size": [40, 48]})
    with pytest.raises(InputError, match="model_type is 'vit'"):
        FAMILY.settings({"model_type": "vit"})
    assert FAMILY.settings({"model_type": "dinov2", "image_size": [518, 518]})["image_size"] == 518


def test_pictures_with_a_rest_are_refused(plain):
    ours = ours_from(plain[1], "dinov2", KINDS["plain"])
    with pytest.raises(InputError, match="pictures of 41 x 40 pixels; the encoder expects multiples of 8"):
        ours(pictures(41, 40))


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_of_the_presets(name):
    config = PRESETS[name]()
    assert num_parameters(config) == num_torch_parameters(lambda: build(config.settings()))
    assert config.vit.grid_size == 37


def test_release_sizes():
    """Millions of parameters as the release states them."""
    millions = {"small": 22, "base": 87, "large": 304, "giant": 1136}
    for size, expected in millions.items():
        assert round(num_parameters(PRESETS[f"dinov2_{size}"]()) / 1e6) == expected
    assert dinov2.dinov2_giant().mlp_width == 4096
