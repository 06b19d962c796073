"""DINOv3 against transformers' DINOv3ViTModel, through the importer, with wrong twins that must fail."""

import copy
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

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
from vla_jax.convert.families.dinov3 import FAMILY
from vla_jax.encoders import vit
from vla_jax.encoders.dinov3 import PRESETS, from_settings, tiny
from vla_jax.nn import attention
from vla_jax.nn.rotary import Rotation, axial_rotation
from vla_jax.types import InputError

torch = pytest.importorskip("torch")

KINDS = {"plain": tiny(), "gated": tiny(gated_mlp=True)}
IMAGES = pictures(40, 24)
"""Five rows, three columns."""


def build(settings):
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    return DINOv3ViTModel(DINOv3ViTConfig(**settings))


def random_pair(kind: str, folder):
    """(ours, theirs, folder)"""
    theirs = randomize(build(KINDS[kind].settings()))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("lambda1"):
                parameter.add_(1.0)
    theirs.save_pretrained(folder)
    return ours_from(folder, "dinov3", KINDS[kind]), theirs, folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return random_pair("plain", tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    return random_pair("gated", tmp_path_factory.mktemp("gated"))


@pytest.fixture(params=KINDS)
def pair(request):
    return request.getfixturevalue(request.param)


def error(ours, theirs, images=IMAGES) -> float:
    """Of all final tokens."""
    with torch.no_grad():
        expected = theirs(pixels(images)).last_hidden_state
    grid = jax.jit(lambda pictures: ours(pictures))(images)
    return relative_error(np.concatenate([grid.prefix, grid.tokens], axis=1), expected)


@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_tokens_hidden_states_and_rotated_projections(pair, size):
    from transformers.models.dinov3_vit.modeling_dinov3_vit import apply_rotary_pos_emb

    ours, theirs, _ = pair
    images, pixel_values = pictures(*size), pixels(pictures(*size))
    grid, embedded = everything(ours, images)
    with torch.no_grad():
        found = theirs(pixel_values, output_hidden_states=True)
        cos, sin = theirs.rope_embeddings(pixel_values)
    attentions = [layer.attention for layer in theirs.model.layer]
    query, key, value = (
        [
            heads(x, ours.config.num_heads)
            for x in outputs_of([getattr(a, name) for a in attentions], lambda: theirs(pixel_values))
        ]
        for name in ("q_proj", "k_proj", "v_proj")
    )
    turned = [
        [x.transpose(1, 2) for x in apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), cos, sin)]
        for q, k in zip(query, key, strict=True)
    ]

    split = 1 + ours.config.num_registers
    assert relative_error(grid.tokens, found.last_hidden_state[:, split:]) <= BAR
    assert relative_error(grid.prefix, found.last_hidden_state[:, :split]) <= BAR
    assert_equal_inside(grid, embedded, found.hidden_states, [[q for q, _ in turned], [k for _, k in turned], value])


def test_every_tensor_goes_out_as_it_came(pair):
    ours, _, folder = pair
    assert_round_trip(folder, "dinov3", ours)


def test_settings_say_what_config_json_says(pair):
    settings = FAMILY.settings(json.loads((pair[2] / "config.json").read_text()))
    assert from_settings(settings).settings() == settings
    assert from_settings(settings) in KINDS.values()


def test_names_as_in_memory_are_read_too(plain, tmp_path):
    from safetensors.torch import save_file

    ours, theirs, folder = plain
    save_file(
        {name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert "model.layer.0.norm1.weight" in theirs.state_dict()
    again = ours_from(tmp_path, "dinov3", KINDS["plain"])
    np.testing.assert_array_equal(again.stack.blocks.mlp.up.kernel[...], ours.stack.blocks.mlp.up.kernel[...])


# ---- wrong twins


def test_registers_turned_too_fail(plain, monkeypatch):
    def turning_prefix(turning, length):
        return Rotation(*(jnp.concatenate([angle[:length], angle]) for angle in turning))

    monkeypatch.setattr(vit, "with_still_prefix", turning_prefix)
    assert error(*plain[:2]) > 100 * BAR


def test_rows_and_columns_swapped_fail(plain, monkeypatch):
    def swapped(rows, columns, head_width, theta):
        turning = axial_rotation(columns, rows, head_width, theta)
        return Rotation(*(a.reshape(columns, rows, -1).swapaxes(0, 1).reshape(a.shape) for a in turning))

    monkeypatch.setattr(vit, "axial_rotation", swapped)
    assert error(*plain[:2]) > 100 * BAR


def test_interleaved_rotation_fails(plain, monkeypatch):
    def interleaved(x, rotation):
        half = x.shape[-1] // 2
        cos, sin = (angle[..., :, None, :half] for angle in rotation)
        even, odd = x[..., ::2], x[..., 1::2]
        return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)

    monkeypatch.setattr(attention, "rotate", interleaved)
    assert error(*plain[:2]) > 100 * BAR


@pytest.mark.parametrize(
    ("wrong", "factor"),
    [({"activation": "gelu_tanh"}, 10), ({"positions": vit.AxialPositions(theta=100.0)}, 100)],
    ids=["tanh gelu", "another theta"],
)
def test_wrong_insides_fail(plain, wrong, factor):
    _, theirs, folder = plain
    ours = ours_from(folder, "dinov3", dataclasses.replace(KINDS["plain"].vit, **wrong), checked=False)
    assert error(ours, theirs) > factor * BAR


def test_wrong_epsilon_fails_on_inputs_of_small_variance(plain, tmp_path):
    small = copy.deepcopy(plain[1])
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            if "embeddings" in name:
                parameter.mul_(1e-3)
    small.save_pretrained(tmp_path)
    right = ours_from(tmp_path, "dinov3", KINDS["plain"])
    wrong = ours_from(tmp_path, "dinov3", dataclasses.replace(KINDS["plain"].vit, epsilon=1e-6), checked=False)
    assert error(right, small) <= BAR
    assert error(wrong, small) > 100 * BAR


# ---- refusals and sizes


def test_what_no_release_has_is_refused_by_name():
    settings = tiny().settings()
    with pytest.raises(InputError, match="key_bias is True, expected False"):
        from_settings(settings | {"key_bias": True})
    with pytest.raises(InputError, match="hidden_act is 'gelu', expected 'silu'"):
        from_settings(settings | {"use_gated_mlp": True})
    with pytest.raises(InputError, match="num_register_tokens is 0, expected a positive integer"):
        from_settings(FAMILY.settings({}))
    with pytest.raises(InputError, match="pictures of 40 x 30 pixels; the encoder expects multiples of 8"):
        tiny().build(nnx.Rngs(0))(pictures(40, 30))


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_of_the_presets(name):
    config = PRESETS[name]()
    assert num_parameters(config) == num_torch_parameters(lambda: build(config.settings()))


def test_h_plus_has_the_parameters_that_its_release_states():
    assert round(num_parameters(PRESETS["dinov3_vith16plus"]()) / 1e5) == 8406
