"""ViT against transformers' ViTModel and ViTForImageClassification, with wrong twins that must fail."""

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
from vla_jax.convert.families.imagenet_vit import FAMILY
from vla_jax.convert.save import disk_arrays, save
from vla_jax.encoders.imagenet_vit import PRESETS, from_settings, tiny
from vla_jax.parameters import split
from vla_jax.types import InputError

torch = pytest.importorskip("torch")

BASE, CLASSIFIER = tiny(pooled_width=28), tiny(num_classes=7)
HALF = (0.5, 0.5, 0.5)


def build(config):
    from transformers import ViTConfig, ViTForImageClassification, ViTModel

    settings = config.settings()
    kind = ViTForImageClassification if "num_labels" in settings else ViTModel
    return kind(ViTConfig(**settings))


def random_pair(config, folder):
    """(ours, theirs, folder)"""
    theirs = randomize(build(config))
    theirs.save_pretrained(folder)
    return ours_from(folder, "imagenet_vit", config), theirs, folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return random_pair(BASE, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return random_pair(CLASSIFIER, tmp_path_factory.mktemp("classifier"))


def their_output(theirs, images):
    with torch.no_grad():
        return theirs(pixels(images, HALF, HALF), interpolate_pos_encoding=True, output_hidden_states=True)


@pytest.mark.parametrize("size", [(40, 40), (24, 56)])
def test_tokens_hidden_states_and_projections(base, size):
    ours, theirs, _ = base
    images = pictures(*size)
    grid, embedded = everything(ours, images)
    found = their_output(theirs, images)
    projections = [
        [
            heads(x, BASE.num_heads)
            for x in outputs_of(
                [getattr(layer.attention, name) for layer in theirs.layers], lambda: their_output(theirs, images)
            )
        ]
        for name in ("q_proj", "k_proj", "v_proj")
    ]
    states = [*outputs_of([theirs.embeddings, *theirs.layers], lambda: their_output(theirs, images))]

    assert relative_error(grid.tokens, found.last_hidden_state[:, 1:]) <= BAR
    assert relative_error(grid.prefix, found.last_hidden_state[:, :1]) <= BAR
    assert_equal_inside(grid, embedded, states, projections)
    assert relative_error(ours.pooled(images), found.pooler_output) <= BAR


def test_logits(classifier):
    ours, theirs, _ = classifier
    images = pictures(40, 40)
    assert relative_error(ours.logits(images), their_output(theirs, images).logits) <= BAR


def test_every_tensor_of_the_base_model_goes_out_as_it_came(base):
    assert_round_trip(base[2], "imagenet_vit", base[0])


def test_a_classifier_loads_into_transformers_with_the_same_bits(classifier, tmp_path):
    from transformers import ViTForImageClassification

    ours, theirs, _ = classifier
    save(tmp_path, disk_arrays("imagenet_vit", split(ours)[1]))
    theirs.config.save_pretrained(tmp_path)

    again, report = ViTForImageClassification.from_pretrained(tmp_path, output_loading_info=True)

    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    expected = theirs.state_dict()
    assert again.state_dict().keys() == expected.keys()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("kind", ["base", "classifier"])
def test_settings_say_what_config_json_says(kind, request):
    _, _, folder = request.getfixturevalue(kind)
    settings = FAMILY.settings(json.loads((folder / "config.json").read_text()))
    assert from_settings(settings) == {"base": BASE, "classifier": CLASSIFIER}[kind]
    assert from_settings(settings).settings() == settings


def test_an_encoder_alone_leaves_the_heads_alone(base, classifier):
    images = pictures(40, 40)
    for ours, _, folder in (base, classifier):
        alone = ours_from(folder, "imagenet_vit", tiny())
        np.testing.assert_array_equal(alone.patches.kernel[...], ours.patches.kernel[...])
        assert alone.pooler is alone.classifier is None
    assert relative_error(alone(images).tokens, ours(images).tokens) <= BAR


# ---- wrong twins


def error(theirs, folder, images, **wrong) -> float:
    ours = ours_from(folder, "imagenet_vit", dataclasses.replace(BASE.vit, **wrong), checked=False)
    grid = jax.jit(lambda images: ours(images))(images)
    return relative_error(grid.tokens, their_output(theirs, images).last_hidden_state[:, 1:])


@pytest.mark.parametrize(
    ("wrong", "factor"),
    [({"activation": "gelu_tanh"}, 10), ({"mean": (0.485, 0.456, 0.406)}, 100)],
    ids=["tanh gelu", "mean of ImageNet"],
)
def test_wrong_insides_fail(base, wrong, factor):
    assert error(*base[1:], pictures(40, 40), **wrong) > factor * BAR


def test_wrong_epsilon_fails_on_inputs_of_small_variance(base, tmp_path):
    small = copy.deepcopy(base[1])
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            if "embeddings" in name:
                parameter.mul_(1e-3)
    small.save_pretrained(tmp_path)
    assert error(small, tmp_path, pictures(40, 40)) <= BAR
    assert error(small, tmp_path, pictures(40, 40), epsilon=1e-6) > 100 * BAR


def test_what_no_release_has_is_refused_by_name():
    with pytest.raises(InputError, match="layer_norm_eps is 1e-06, expected 1e-12"):
        from_settings(tiny().settings() | {"layer_norm_eps": 1e-6})
    with pytest.raises(InputError, match="pooler_act is 'relu', expected 'tanh'"):
        from_settings(tiny(pooled_width=28).settings() | {"pooler_act": "relu"})


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_of_the_presets(name):
    config = PRESETS[name]()
    assert num_parameters(config) == num_torch_parameters(lambda: build(config))
