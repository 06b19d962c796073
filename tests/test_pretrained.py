"""The models of the weight families: found by name, and back from what Hugging Face says of them."""

import json
import pkgutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vla_jax import pretrained
from vla_jax.convert import families
from vla_jax.encoders import clip
from vla_jax.types import InputError


def has_model(family: str) -> bool:
    try:
        pretrained.find_model(family)
    except InputError:
        return False
    return True


FAMILIES = [name for name in (module.name for module in pkgutil.iter_modules(families.__path__)) if has_model(name)]
PRESETS = [(family, preset) for family in FAMILIES for preset in pretrained.find_model(family).PRESETS]


def test_clip_is_among_them():
    assert "clip" in FAMILIES
    assert ("clip", "clip_l14") in PRESETS


@pytest.mark.parametrize(("family", "preset"), PRESETS)
def test_a_preset_says_its_settings(family, preset):
    """Each family's own test takes them back."""
    settings = pretrained.find_model(family).PRESETS[preset]().settings()
    assert settings
    assert isinstance(settings, dict)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_of_another_kind_of_model_is_refused(family):
    """Its tensors may have the same names and shapes."""
    module = pretrained.find_model(family)
    settings = next(iter(module.PRESETS.values()))().settings()
    file = Path("config.json")
    pretrained.config_of(family, settings, file=file)
    with pytest.raises(InputError, match=r"config.json: model_type is 'vit_mae', expected '"):
        pretrained.config_of(family, settings | {"model_type": "vit_mae"}, file=file)


@pytest.mark.parametrize("family", FAMILIES)
def test_quantised_weights_are_refused_as_such(family):
    settings = first_preset(family).settings()
    for quantised in ({"quant_method": "gptq", "bits": 4}, {}):
        with pytest.raises(InputError, match=r"config.json: quantization_config is .*; take the unquantised ones"):
            pretrained.config_of(family, settings | {"quantization_config": quantised}, file=Path("config.json"))


NUM_ENCODERS = {"llama": 0, "gemma": 0, "qwen2": 0, "qwen3": 0, "prismatic": 2, "openvla": 2}
"""Of pictures; one in every other family."""


def normalization_said(family: str, model) -> dict:
    """As the processor of the family says it."""
    encoders = pretrained.normalization_of(model)
    if NUM_ENCODERS.get(family, 1) == 2:
        return {"means": [one.mean for one in encoders], "stds": [one.std for one in encoders]}
    return {"image_mean": encoders[0].mean, "image_std": encoders[0].std}


def first_preset(family: str):
    return next(iter(pretrained.find_model(family).PRESETS.values()))()


def read_beside(folder: Path, family: str, model, said: dict):
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return pretrained.config_of(family, model.settings(), file=folder / "config.json")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_picture_encoder_is_found(family):
    assert len(pretrained.normalization_of(first_preset(family))) == NUM_ENCODERS.get(family, 1)


@pytest.mark.parametrize("family", [family for family in FAMILIES if NUM_ENCODERS.get(family, 1)])
def test_pictures_that_are_normalised_otherwise_are_refused(family, tmp_path):
    """Weights of one config.json were trained with different means; preprocessor_config.json says which."""
    model = first_preset(family)
    mean, std = right = normalization_said(family, model)
    right |= {"do_normalize": True, "do_rescale": True, "rescale_factor": 0.00392156862745098}
    for said in (right, {}, right | {mean: jnp.asarray(right[mean], jnp.bfloat16).astype(float).tolist()}):
        read_beside(tmp_path, family, model, said)
    satellites = np.full_like(right[mean], 0.43).tolist()
    wrong = {mean: satellites, std: "x", "do_normalize": False, "do_rescale": False, "rescale_factor": 1 / 127.5}
    for key, value in wrong.items():
        with pytest.raises(InputError, match=rf"preprocessor_config.json: {key} is .*, this model has .*; take"):
            read_beside(tmp_path, family, model, right | {key: value})


def test_a_model_that_sees_no_pictures_has_no_normalisation_to_compare(tmp_path):
    model = first_preset("llama")
    assert read_beside(tmp_path, "llama", model, {"image_mean": [9, 9, 9]}) == model


def test_clips_presets_come_back_whole():
    for preset in clip.PRESETS.values():
        assert pretrained.config_of("clip", preset().settings(), file=Path("config.json")) == preset()


def test_half_a_clip_comes_from_half_a_config():
    whole = clip.clip_tiny()
    text = whole.settings()["text_config"] | {"model_type": "clip_text_model", "projection_dim": 28}
    model = pretrained.config_of("clip", text, file=Path("config.json"))
    assert model == clip.ClipConfig(vision=None, text=whole.text, projection_width=28)


def test_a_model_that_we_do_not_have_is_refused():
    settings = clip.clip_tiny().settings()
    settings["vision_config"]["hidden_act"] = "swish7"
    with pytest.raises(InputError, match="hidden_act is 'swish7', expected one of"):
        pretrained.config_of("clip", settings, file=Path("config.json"))
    with pytest.raises(InputError, match="'ef_vla' has no model of its own"):
        pretrained.find_model("ef_vla")
    with pytest.raises(InputError, match="'klip' is not known"):
        pretrained.find_model("klip")
