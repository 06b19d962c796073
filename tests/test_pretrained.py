"""The models of the weight families: found by name, and back from what Hugging Face says of them."""

import pkgutil
from pathlib import Path

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
