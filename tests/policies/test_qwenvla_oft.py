"""QwenVLA-OFT: sizes, what it may and may not look at, what trains."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import qwenvla_oft_oxe
from tests.policies.twin import Twin
from vla_jax.actions.token_regression import TokenRegressionConfig
from vla_jax.commands.plan import figures
from vla_jax.parameters import abstract
from vla_jax.policies import qwenvla_oft
from vla_jax.vlms.action_reader import ActionReaderConfig


def test_the_preset_has_the_sizes_and_the_cost_of_the_paper_s():
    """papers.md 3.5: 4437.8 M and a head of 6.6 M; 997 GFLOP."""
    plan = figures(dataclasses.replace(qwenvla_oft_oxe.get_config(), batch_size=1))
    modules = {name: counts["total"] / 1e6 for name, counts in plan["parameters"]["modules"].items()}
    assert modules["vlm/language"] == pytest.approx(4022.5, rel=5e-3)
    assert modules["vlm/vision"] == pytest.approx(415.3, rel=5e-3)
    assert modules["head/hidden"] + modules["head/out"] == pytest.approx(6.6, rel=5e-3)
    assert plan["parameters"]["trainable"] / 1e6 == pytest.approx(4444.4, rel=5e-3)
    assert plan["flops_per_sample"]["analytic"] / 1e9 == pytest.approx(997, rel=0.02)
    assert not plan["flops_per_sample"]["uncounted"]


VARIANTS = {
    "plain": {},
    "two_cameras": {"reader": ActionReaderConfig(cameras=("primary", "wrist"), reads_proprio=True)},
    "without_deepstack_per_dimension": {
        "reader": ActionReaderConfig(deepstack=False),
        "head": TokenRegressionConfig(token="dimension"),
    },
}


@pytest.fixture(scope="module", params=VARIANTS)
def tiny(request, action_space, make_batch) -> Twin:
    preset = dataclasses.replace(qwenvla_oft.qwenvla_oft(action_space), **VARIANTS[request.param])
    return Twin(qwenvla_oft.tiny(preset), make_batch)


def test_padding_changes_neither_loss_nor_actions(tiny):
    parameters, batch = tiny.parameters, tiny.batch
    observation = batch.observation
    garbage = {
        slot: jnp.where(observation.image_masks[slot][..., None, None, None], images, 77).astype(jnp.uint8)
        for slot, images in observation.images.items()
    }
    words = jnp.where(observation.instruction_mask, observation.instruction_tokens, 400)
    changed = dataclasses.replace(observation, images=garbage, instruction_tokens=words)
    padded = jnp.where(batch.action_mask, batch.action, 1e3)
    other = dataclasses.replace(batch, observation=changed, action=padded)
    assert any(not mask.all() for mask in observation.image_masks.values())
    np.testing.assert_array_equal(tiny.act(parameters, changed), tiny.act(parameters, observation))
    np.testing.assert_allclose(tiny.loss(parameters, other), tiny.loss(parameters, batch), rtol=1e-6)


def test_actions_depend_on_pictures_and_words_and_on_proprio_where_it_is_read(tiny):
    observation, act = tiny.batch.observation, lambda observation: tiny.act(tiny.parameters, observation)
    black = {slot: jnp.zeros_like(images) for slot, images in observation.images.items()}
    changes = {
        "images": black,
        "instruction_tokens": observation.instruction_tokens + 1,
        "proprio": observation.proprio + 1.0,
    }
    found = {
        name: bool(np.abs(act(dataclasses.replace(observation, **{name: value})) - act(observation)).max() > 1e-5)
        for name, value in changes.items()
    }
    assert found == {"images": True, "instruction_tokens": True, "proprio": tiny.config.reader.reads_proprio}


def test_every_parameter_has_a_gradient(tiny):
    gradient = jax.jit(jax.grad(lambda parameters: tiny.loss(parameters, tiny.batch)))(tiny.parameters)
    without = {path for path, array in gradient.items() if not np.any(array)}
    unused = ("vlm/vision/deepstack/",) if not tiny.config.reader.deepstack else ()
    assert {path for path in without if not path.startswith(unused or "-")} == set()
    assert bool(without) == bool(unused)


def test_stages_end_with_the_actions_and_words_look_at_each_picture(action_space, make_batch):
    twin = Twin(qwenvla_oft.tiny(qwenvla_oft.qwenvla_oft(action_space)), make_batch)

    def everything(parameters, observation):
        policy = twin.policy(parameters)
        return policy.stages(observation), policy.attention_maps(observation), policy.act(observation)

    stages, maps, actions = jax.jit(everything)(twin.parameters, twin.batch.observation)
    np.testing.assert_array_equal(stages["actions"][:, 0], actions)
    assert maps["primary"].shape == (3, 1, 16, 4, 4)
    assert (maps["primary"][1:] > 0).all()
    assert (maps["primary"][0] == 0).all(), "its picture is missing"


def test_the_scratch_twin_is_small_and_reads_the_built_in_vocabulary(action_space):
    config = qwenvla_oft.qwenvla_oft_scratch(action_space)
    shapes = abstract(lambda: config.build(nnx.Rngs(0))).shapes()
    assert sum(shape.size for shape in shapes.values()) < 1e6
    assert config.data_requirements().vocab_size >= 512
    assert config.data_requirements().cameras[0].height == 64
