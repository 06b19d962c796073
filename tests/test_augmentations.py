"""Presets by name: what they put where, and that the published numbers are those of the papers' policies."""

import dataclasses

import pytest

from configs import ef_vla_bridge
from tests.toy import toy_config
from vla_jax import augmentations
from vla_jax.config import from_json, to_json
from vla_jax.policies.ef_vla import EfVlaConfig
from vla_jax.types import InputError


@pytest.mark.parametrize("name", sorted(augmentations.PRESETS))
def test_a_preset_goes_into_a_recipe_and_through_json(name):
    preset = augmentations.named(name)
    config = preset.applied(ef_vla_bridge.tiny())
    assert (config.augmentation, config.data.crop, config.data.rotation) == (preset.color, preset.crop, preset.rotation)
    assert config.data.task == preset.task
    assert from_json(to_json(config)) == config
    assert preset.source


def test_ef_vlas_preset_is_what_its_recipe_and_policy_have():
    config = ef_vla_bridge.get_config()
    assert augmentations.named("ef_vla").applied(config) == config
    assert {field.name: field.default for field in dataclasses.fields(EfVlaConfig)}["proprio_noise"] == 0.01


def test_octo_crops_the_workspace_camera_alone_and_leaves_out_one_telling_of_the_task():
    octo = augmentations.named("octo")
    assert octo.crop.slots == ("primary",)
    assert octo.color.slots == ("primary", "wrist")
    assert octo.task.keep_goal == 0.5


def test_what_a_policy_cannot_do_and_unknown_names_are_refused():
    with pytest.raises(InputError, match="ToyConfig has no proprio_noise"):
        augmentations.named("ef_vla").applied(toy_config())
    with pytest.raises(InputError, match="'octa': the presets are"):
        augmentations.named("octa")
