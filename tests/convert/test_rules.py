"""Rule tables: every layout in both directions, and what a table may not contain."""

import dataclasses
import pkgutil

import jax
import numpy as np
import pytest

from vla_jax import policies, pretrained
from vla_jax.convert import families
from vla_jax.convert.rules import Rule, disk_tensors, find_family
from vla_jax.types import InputError

FAMILIES = [module.name for module in pkgutil.iter_modules(families.__path__)]
RELEASES = [
    *("clip", "dinov2", "dinov3", "gemma", "imagenet_vit", "llama", "openvla", "prismatic", "qwen2", "qwen3"),
    *("qwen3_vl", "sam", "siglip"),
]
"""Families with a model of their own; the others are of our policies, whose tables the exports test."""


def struct(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_name_and_no_path_stands_in_a_family_twice(name):
    rules = find_family(name).rules
    paths = [path for rule in rules if rule.holds is None for path in rule.paths]  # the others: in disk_tensors
    names = [rule.disk for rule in rules if rule.layers is None]  # the others: in the test that follows
    assert len(set(names)) == len(names)
    assert len(set(paths)) == len(paths)


def test_families_that_are_no_releases_are_of_policies():
    ours = {module.name for module in pkgutil.iter_modules(policies.__path__)} | {"otter"}
    assert set(RELEASES) < set(FAMILIES)
    assert set(FAMILIES) - set(RELEASES) <= ours


@pytest.mark.parametrize("name", RELEASES)
def test_no_tensor_of_a_release_comes_twice(name):
    """Rules of one name that hold for different layers among them (SAM's windows and global blocks)."""
    for preset in pretrained.find_model(name).PRESETS.values():
        tensors = disk_tensors(find_family(name).rules, pretrained.shapes_of(preset()))
        assert len({tensor.name for tensor in tensors}) == len(tensors)


def test_an_unknown_family_is_named_with_the_known_ones():
    with pytest.raises(InputError, match=r"'klip' is not known; there are \['clip'"):
        find_family("klip")


@pytest.mark.parametrize(
    ("layout", "disk_shape", "our_shape", "sample"),
    [
        ("copy", (2, 3), (2, 3), ((1, 2), (1, 2))),
        ("transpose", (2, 3), (3, 2), ((1, 2), (2, 1))),
        ("conv", (5, 3, 2, 4), (2, 4, 3, 5), ((4, 2, 1, 3), (1, 3, 2, 4))),
    ],
)
def test_layouts_put_each_axis_where_it_belongs_and_back(layout, disk_shape, our_shape, sample):
    (tensor,) = disk_tensors([Rule(disk="a", paths=("x",), layout=layout)], {"x": struct(*our_shape)})
    stored = np.random.default_rng(0).normal(size=disk_shape).astype(np.float32)

    (ours,) = tensor.to_ours(stored)

    assert tensor.shape == disk_shape
    assert ours.shape == our_shape
    assert ours[sample[1]] == stored[sample[0]]
    np.testing.assert_array_equal(tensor.to_disk([ours]), stored)


def test_fused_projections_split_and_merge_over_stacked_layers():
    """Grouped-query attention: the shares need not be equal."""
    rule = Rule(disk="blocks.{layer}.qkv.weight", paths=("q", "k", "v"), layout="transpose")
    shapes = {"q": struct(2, 5, 8), "k": struct(2, 5, 4), "v": struct(2, 5, 4)}

    tensors = disk_tensors([rule], shapes)

    assert [tensor.name for tensor in tensors] == ["blocks.0.qkv.weight", "blocks.1.qkv.weight"]
    assert tensors[0].shape == (16, 5)
    stored = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
    query, key, value = tensors[1].to_ours(stored)
    np.testing.assert_array_equal(query, stored[:8].T)
    np.testing.assert_array_equal(key, stored[8:12].T)
    np.testing.assert_array_equal(value, stored[12:].T)
    np.testing.assert_array_equal(tensors[1].to_disk([query, key, value]), stored)
    assert tensors[1].targets == (("q", 1), ("k", 1), ("v", 1))


def test_a_parameter_without_a_rule_is_refused():
    with pytest.raises(InputError, match=r"no rule for the model's \['y'\]"):
        disk_tensors([Rule(disk="a", paths=("x",))], {"x": struct(2), "y": struct(2)})


def test_a_part_is_there_whole_or_not_at_all():
    rules = [Rule(disk=name, paths=(name,), part=part) for name, part in (("a", "1"), ("b", "1"), ("c", "2"))]
    assert [tensor.name for tensor in disk_tensors(rules, {"c": struct(2)})] == ["c"]
    with pytest.raises(InputError, match=r"the model lacks \['b'\]"):
        disk_tensors(rules, {"a": struct(2), "c": struct(2)})


def test_a_rule_may_hold_for_some_models_only():
    fused = Rule(disk="both", paths=("gate", "up"), holds=lambda shapes: "gate" in shapes)
    plain = Rule(disk="one", paths=("up",), holds=lambda shapes: "gate" not in shapes)
    assert [tensor.name for tensor in disk_tensors([fused, plain], {"gate": struct(2), "up": struct(2)})] == ["both"]
    assert [tensor.name for tensor in disk_tensors([fused, plain], {"up": struct(2)})] == ["one"]
    with pytest.raises(AssertionError, match="two rules"):
        disk_tensors([plain, dataclasses.replace(plain, disk="again")], {"up": struct(2)})
