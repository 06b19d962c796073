"""DeepVision-VLA and its ablations: sizes and cost, what reads what, and that it is the baseline without its expert."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import deepvision_vla_oxe
from tests.policies.twin import Twin
from vla_jax.commands.plan import figures
from vla_jax.encoders import dinov3
from vla_jax.flops import count_flops
from vla_jax.fusion.pruning import PruningConfig
from vla_jax.fusion.shared_attention import SharedAttentionConfig
from vla_jax.parameters import abstract, matching
from vla_jax.policies import deepvision_vla, qwenvla_oft
from vla_jax.training.batch_shapes import observation_shapes
from vla_jax.types import InputError
from vla_jax.vlms.deep_coupling import DeepCouplingConfig, TowerCouplingConfig
from vla_jax.vlms.expert_features import MiddleAlignmentConfig


def test_the_preset_has_the_sizes_and_the_cost_of_the_paper_s():
    """papers.md 3.5: expert 840.6 M, aligners 42.0 M, 5.33 B in all; 2.46 TFLOP."""
    plan = figures(dataclasses.replace(deepvision_vla_oxe.get_config(), batch_size=1))
    modules = {name: counts["total"] / 1e6 for name, counts in plan["parameters"]["modules"].items()}
    expert = sum(count for name, count in modules.items() if name.startswith("expert"))
    assert expert == pytest.approx(840.6, rel=5e-3)
    assert modules["integration/shared"] == pytest.approx(42.0, rel=5e-3)
    assert plan["parameters"]["trainable"] / 1e6 == pytest.approx(5327, rel=5e-3)
    assert plan["flops_per_sample"]["analytic"] / 1e9 == pytest.approx(2462, rel=0.02)
    assert not plan["flops_per_sample"]["uncounted"]


def _full(action_space, **changes):
    config = deepvision_vla.deepvision_vla(dataclasses.replace(action_space, horizon=8))
    return dataclasses.replace(config, integration=dataclasses.replace(config.integration, **changes))


def _forward(config) -> float:
    structure = abstract(lambda: config.build(nnx.Rngs(0)))
    observation = observation_shapes(config.data_requirements(), batch_size=1)
    act = lambda parameters, observation: structure.merge(parameters).act(observation)  # noqa: E731
    return count_flops(act, structure.shapes(), observation).total / 1e9


def test_aligning_queries_too_costs_the_parameters_of_the_paper_s_equations(action_space):
    """210.0 M; 5.50 B in all. To the hidden width: 157.7 M for queries, keys and values."""

    def aligners(**attention) -> float:
        config = _full(action_space, attention=SharedAttentionConfig(**attention))
        shapes = abstract(lambda: config.build(nnx.Rngs(0))).shapes()
        return sum(shape.size for path, shape in shapes.items() if path.startswith("integration/")) / 1e6

    assert aligners(expert_attention="aligned") == pytest.approx(210.0, rel=5e-3)
    back = 16 * (4096 + 1) * 1280 / 1e6
    assert aligners(expert_attention="aligned", align_to="hidden") - back == pytest.approx(157.7, rel=5e-3)


def test_an_expert_that_runs_on_all_its_tokens_costs_what_the_spec_says(action_space):
    assert _forward(_full(action_space, prune_mode="kv_only")) == pytest.approx(2957, rel=0.02)


def test_the_guiding_map_costs_less_than_a_hundredth(action_space):
    """By count: against guidance from elsewhere and with no rows at all, whatever is left is the map."""
    with_map = _forward(_full(action_space))
    baseline = _forward(_full(action_space, guidance="cls"))  # one layer's scores of one row, 1029 keys
    assert abs(with_map - baseline) < 0.01 * with_map


# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(action_space, make_batch) -> Twin:
    return Twin(deepvision_vla.tiny(deepvision_vla.deepvision_vla(action_space)), make_batch)


def _with(twin: Twin, **changes):
    integration = dataclasses.replace(twin.config.integration, **changes)
    return dataclasses.replace(twin.config, integration=integration)


def _everything_there(observation):
    masks = {slot: jnp.ones_like(mask) for slot, mask in observation.image_masks.items()}
    return dataclasses.replace(observation, image_masks=masks)


def test_without_the_expert_s_picture_it_is_the_baseline_bit_for_bit(tiny, action_space):
    baseline = qwenvla_oft.tiny(qwenvla_oft.qwenvla_oft(action_space))
    structure = abstract(lambda: baseline.build(nnx.Rngs(0)))
    parameters = {path: tiny.parameters[path] for path in structure.shapes()}
    observation = _everything_there(tiny.batch.observation)
    hidden = observation.image_masks | {"primary_high": jnp.zeros((3, 1), bool)}
    without = dataclasses.replace(observation, image_masks=hidden)
    expected = jax.jit(lambda parameters, o: structure.merge(parameters).act(o))(parameters, observation)
    np.testing.assert_array_equal(tiny.act(tiny.parameters, without), expected)
    assert np.abs(tiny.act(tiny.parameters, observation) - expected).max() > 1e-4


def test_padding_changes_neither_loss_nor_actions(tiny):
    batch = tiny.batch
    observation = batch.observation
    garbage = {
        slot: jnp.where(observation.image_masks[slot][..., None, None, None], images, 77).astype(jnp.uint8)
        for slot, images in observation.images.items()
    }
    assert any(np.any(garbage[slot] != observation.images[slot]) for slot in garbage)
    words = jnp.where(observation.instruction_mask, observation.instruction_tokens, 400)
    changed = dataclasses.replace(observation, images=garbage, instruction_tokens=words)
    other = dataclasses.replace(batch, observation=changed, action=jnp.where(batch.action_mask, batch.action, 1e3))
    np.testing.assert_array_equal(tiny.act(tiny.parameters, changed), tiny.act(tiny.parameters, observation))
    np.testing.assert_allclose(tiny.loss(tiny.parameters, other), tiny.loss(tiny.parameters, batch), rtol=1e-6)


def test_what_is_pruned_is_not_seen_and_what_is_kept_is(tiny):
    """The expert's picture is changed where the map is lowest, then where it is highest. `kv_only` would see both: its
    expert runs on everything.
    """
    observation = _everything_there(tiny.batch.observation)
    scores = jax.jit(lambda parameters, o: tiny.policy(parameters).read(o)[0].guidance)(tiny.parameters, observation)
    single = dataclasses.replace(tiny.config.integration.pruning, ratio=1 - 1 / 64)
    config = _with(tiny, pruning=single, expert_layers="first", prune_mode="tokens", num_layers=2)
    structure = abstract(lambda: config.build(nnx.Rngs(0)))
    act = jax.jit(lambda parameters, o: structure.merge(parameters).act(o))

    def blackened(cell: jax.Array):
        images = observation.images["primary_high"]
        rows, columns = (jnp.arange(64) // 8 == place[:, None] for place in (cell // 8, cell % 8))
        black = rows[:, None, :, None, None] & columns[:, None, None, :, None]
        pictures = observation.images | {"primary_high": jnp.where(black, 0, images).astype(jnp.uint8)}
        return act(tiny.parameters, dataclasses.replace(observation, images=pictures))

    whole = act(tiny.parameters, observation)
    np.testing.assert_allclose(blackened(jnp.argmin(scores, axis=1)), whole, atol=1e-6)
    assert np.abs(blackened(jnp.argmax(scores, axis=1)) - whole).max() > 1e-5


def test_a_pruning_ratio_of_nothing_changes_nothing(tiny):
    observation = _everything_there(tiny.batch.observation)
    found = []
    for mode in ("tokens", "kv_only"):
        config = _with(tiny, pruning=PruningConfig(ratio=0.0), prune_mode=mode)
        structure = abstract(lambda config=config: config.build(nnx.Rngs(0)))
        act = jax.jit(lambda parameters, o, structure=structure: structure.merge(parameters).act(o))
        found.append(act(tiny.parameters, observation))
    np.testing.assert_allclose(*found, atol=1e-6)
    assert np.abs(found[0] - tiny.act(tiny.parameters, observation)).max() > 1e-6, "half of them is another thing"


ALTERNATIVES = [
    {"prune_mode": "kv_only", "inject_prefix": True},
    {"prune_mode": "kv_only"},
    {"positions": "none"},
    {"positions": "sequence"},
    {"inject_prefix": True},
    {"readers": "visual_and_action"},
    {"reference_layers": (1,)},
    {"expert_layers": "first"},
    {"guidance": "text"},
    {"guidance": "cls"},
]


@pytest.mark.parametrize(
    "changes",
    [
        changes if number == 0 else pytest.param(changes, marks=pytest.mark.all_presets)
        for number, changes in enumerate(ALTERNATIVES)
    ],
    ids=str,
)
def test_every_alternative_computes_something_else_from_the_same_parameters(tiny, changes):
    config = _with(tiny, **changes)
    structure = abstract(lambda: config.build(nnx.Rngs(0)))
    act = jax.jit(lambda parameters, o: structure.merge(parameters).act(o))
    observation = _everything_there(tiny.batch.observation)
    difference = np.abs(act(tiny.parameters, observation) - tiny.act(tiny.parameters, observation)).max()
    assert 1e-7 < difference < 10


@pytest.mark.parametrize(
    "name",
    [
        name if number == 0 else pytest.param(name, marks=pytest.mark.all_presets)
        for number, name in enumerate(deepvision_vla.PRESETS)
    ],
)
def test_every_parameter_that_takes_part_has_a_gradient_and_none_that_is_frozen(name, action_space, make_batch):
    twin = Twin(deepvision_vla.tiny(deepvision_vla.PRESETS[name](action_space)), make_batch)
    frozen = matching(twin.parameters, twin.config.frozen_paths())
    assert bool(frozen) == (name == "dv_mid_align")
    gradient = jax.jit(jax.grad(lambda parameters: twin.loss(parameters, twin.batch)))(twin.parameters)
    assert all(not np.any(gradient[path]) for path in frozen)
    without = {path for path, array in gradient.items() if not np.any(array)} - frozen
    assert {path for path in without if not path.startswith("expert/")} == set()
    assert "expert/mask_token" in without or not any(path.startswith("expert/") for path in gradient) or frozen


def test_the_alignment_is_in_the_loss_and_actions_do_not_read_the_expert(action_space, make_batch):
    twin = Twin(deepvision_vla.tiny(deepvision_vla.PRESETS["dv_mid_align"](action_space)), make_batch)
    losses = jax.jit(lambda parameters, batch: twin.policy(parameters).loss(batch, key=None))(
        twin.parameters, twin.batch
    )
    np.testing.assert_allclose(losses.total, losses.terms["l1"] + losses.terms["alignment"], rtol=1e-6)
    assert 0 < losses.terms["alignment"] <= 2 * MiddleAlignmentConfig().weight
    observation = twin.batch.observation
    other = {slot: images[::-1] if slot == "primary_high" else images for slot, images in observation.images.items()}
    changed = dataclasses.replace(observation, images=other)
    np.testing.assert_array_equal(twin.act(twin.parameters, changed), twin.act(twin.parameters, observation))


def test_concatenated_features_begin_without_weight_and_then_matter(action_space, make_batch):
    twin = Twin(deepvision_vla.tiny(deepvision_vla.PRESETS["dv_early_fusion"](action_space)), make_batch)
    observation = _everything_there(twin.batch.observation)
    other = {slot: images[::-1] if slot == "primary_high" else images for slot, images in observation.images.items()}
    changed = dataclasses.replace(observation, images=other)
    kernel = "integration/projection/kernel"
    shape = twin.parameters[kernel].shape
    built = twin.config.integration.build(twin.config.vlm, twin.config.expert.vit, nnx.Rngs(0))
    np.testing.assert_array_equal(built.projection.kernel[...], np.zeros(shape))
    weighted, unweighted = twin.parameters, twin.parameters | {kernel: np.zeros(shape, np.float32)}
    np.testing.assert_array_equal(twin.act(unweighted, changed), twin.act(unweighted, observation))
    assert np.abs(twin.act(weighted, changed) - twin.act(weighted, observation)).max() > 1e-4
    hidden = observation.image_masks | {"primary_high": jnp.zeros((3, 1), bool)}
    without = dataclasses.replace(observation, image_masks=hidden)
    np.testing.assert_array_equal(twin.act(weighted, without), twin.act(unweighted, observation))


def test_the_tower_s_layers_are_spread_evenly_and_each_has_one_before_it():
    config = TowerCouplingConfig()
    layers = config.layers(24)
    assert layers == (1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 16, 17, 19, 20, 22, 23)


def test_the_scratch_twin_is_small(action_space):
    config = deepvision_vla.deepvision_vla_scratch(action_space)
    shapes = abstract(lambda: config.build(nnx.Rngs(0))).shapes()
    assert sum(shape.size for shape in shapes.values()) < 1.5e6
    high = config.data_requirements().cameras[-1]
    assert (high.slot, high.source_slot) == ("primary_high", "primary")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert": None}, "expert is None"),
        ({"integration": TowerCouplingConfig().tiny()}, "expert is set"),
        ({"expert_image_size": 60}, "expert_image_size=60"),
        ({"integration": DeepCouplingConfig(num_layers=3, reference_layers=(1,))}, "read DeepStack"),
        ({"integration": DeepCouplingConfig(num_layers=2, reference_layers=(3,))}, "reference_layers"),
        ({"integration": DeepCouplingConfig(num_layers=2, reference_layers=())}, "reference_layers"),
        (
            {
                "integration": DeepCouplingConfig(
                    num_layers=2, reference_layers=(1,), expert_layers="first", guidance="cls"
                )
            },
            "guidance='cls'",
        ),
        ({"expert": dataclasses.replace(dinov3.tiny(), num_layers=1)}, "has 1 layers"),
        ({"integration": MiddleAlignmentConfig(layer=4)}, "layer=4"),
    ],
)
def test_impossible_configs_are_refused(tiny, changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(tiny.config, **changes)
