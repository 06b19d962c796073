"""DFA-VLA: sizes of the models, what is read and what never is, and every reading of what the paper leaves open."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers
from flax import nnx

from vla_jax.convert.load import load_pretrained
from vla_jax.encoders import dinov2
from vla_jax.encoders.frame_stack import DepthConfig
from vla_jax.flops import count_flops
from vla_jax.fusion.contrast import ContrastConfig
from vla_jax.fusion.dfaf import DfafConfig, GateConfig
from vla_jax.fusion.elementwise import ElementwiseConfig
from vla_jax.nn.lora import LoraConfig, is_adapter
from vla_jax.nn.quantization import QuantizationConfig
from vla_jax.parameters import abstract, split
from vla_jax.policies import dfa_vla
from vla_jax.training.batch_shapes import observation_shapes
from vla_jax.types import InputError

LINEARS = "language/stack/blocks/(attention/(query|key|value|out)|mlp/(gate|up|down))"


def large(space):
    return dataclasses.replace(dfa_vla.dfa_vla(space), dinov2=dinov2.dinov2_large())


@pytest.fixture(scope="module")
def one_step(action_space):
    """The paper's: seven dimensions, one action."""
    return dataclasses.replace(action_space, horizon=1, dimensions=action_space.dimensions[:7])


def millions(config) -> dict[str, float]:
    shapes = abstract(lambda: config.build(nnx.Rngs(0))).shapes()
    parts: dict[str, float] = {}
    for path, shape in shapes.items():
        part = path.partition("/")[0]
        parts[part] = parts.get(part, 0) + shape.size / 1e6
    return parts


def gigaflops(config, function) -> float:
    structure = abstract(lambda: config.build(nnx.Rngs(0)))
    observation = observation_shapes(config.data_requirements(), batch_size=1)
    counted = count_flops(lambda p, o: function(structure.merge(p), o), structure.shapes(), observation)
    assert not counted.uncounted
    return counted.total / 1e9


@pytest.mark.parametrize(
    ("preset", "total", "encoder", "flops"),
    [
        (dfa_vla.dfa_vla, 6734.9, 86.58, 771),
        (dfa_vla.dfa_model4, 6734.9, 86.58, 771),
        (dfa_vla.dfa_model2, 6734.9, 86.58, 3229),
        (large, 6953.7, 304.37, 860),
    ],
)
def test_presets_have_the_sizes_of_the_table(one_step, preset, total, encoder, flops):
    config = preset(one_step)
    parts = millions(config)
    assert sum(parts.values()) == pytest.approx(total, rel=0.005)
    assert parts["encoder"] == pytest.approx(encoder, rel=0.005)
    assert parts["language"] == pytest.approx(6607.3, rel=0.005)
    assert parts["head"] == pytest.approx(37.8, rel=0.005)
    assert gigaflops(config, lambda policy, observation: policy.act(observation)) == pytest.approx(flops, rel=0.02)


def test_other_sizes_of_the_picture_and_the_gate_have_those_of_the_table(one_step):
    config = dfa_vla.dfa_vla(one_step)
    assert [dataclasses.replace(config, resolution=side).picture_size for side in (128, 224, 512)] == [112, 196, 448]
    assert dataclasses.replace(config, grid_mode="native").picture_size == 224
    assert millions(config)["mvsm"] == pytest.approx(3.15, rel=0.005)
    assert millions(config)["dfaf"] == pytest.approx(4097 / 1e6)
    vector = dataclasses.replace(config, dfaf=DfafConfig(gate=GateConfig(kind="vector")))
    assert millions(vector)["dfaf"] == pytest.approx(16.8, rel=0.005)


def test_choosing_saves_four_times_the_language_model(one_step):
    def apart(policy, observation):
        return policy.mvsm(*policy.features(observation)).tokens

    def act(policy, observation):
        return policy.act(observation)

    pruned, whole = dfa_vla.dfa_vla(one_step), dfa_vla.dfa_model2(one_step)
    before_it = gigaflops(whole, apart)
    ratio = (gigaflops(whole, act) - before_it) / (gigaflops(pruned, act) - before_it)
    assert ratio == pytest.approx(4.3, abs=0.1)


def test_adapters_of_rank_32_have_the_papers_nearest_number(one_step):
    config, lora = dfa_vla.dfa_vla(one_step), LoraConfig(targets=(LINEARS,), rank=32)

    def adapted():
        policy = config.build(nnx.Rngs(0))
        lora.apply(policy, nnx.Rngs(1))
        return policy

    shapes = abstract(adapted).shapes()
    assert sum(shape.size for path, shape in shapes.items() if is_adapter(path)) / 1e6 == pytest.approx(79.95, rel=1e-3)


# ---- the tiny twin


def boxed(batch, config):
    """With boxes, some of them padding, and the box of the task."""
    shape = (*batch.observation.timestep_mask.shape, config.boxes.count)
    corner = jax.random.uniform(jax.random.key(5), (*shape, 2), maxval=0.5)
    boxes = jnp.concatenate([corner, corner + 0.4], axis=-1)
    masks = (jnp.arange(config.boxes.count) < 3) & batch.observation.timestep_mask[..., None]
    observation = dataclasses.replace(batch.observation, boxes=boxes * masks[..., None], box_masks=masks)
    return dataclasses.replace(batch, observation=observation, target_box=jnp.array([[1, 0, -1]] * shape[0]).T)


def to_the_right(batch):
    """Windows padded on the left, as those that end at a step are."""
    observation = batch.observation
    flipped = {
        "images": {slot: images[:, ::-1] for slot, images in observation.images.items()},
        "image_masks": {slot: mask[:, ::-1] for slot, mask in observation.image_masks.items()},
        "timestep_mask": observation.timestep_mask[:, ::-1],
    }
    return dataclasses.replace(
        batch, observation=dataclasses.replace(observation, **flipped), action_mask=batch.action_mask[:, ::-1]
    )


@pytest.fixture(scope="module")
def tiny(action_space, make_batch):
    """A policy with random values everywhere, a batch, and what it computes: stages, actions, losses."""
    config = dfa_vla.tiny(dfa_vla.dfa_vla(action_space))
    structure, parameters = split(config.build(nnx.Rngs(0)))
    for path, key in zip(parameters, jax.random.split(jax.random.key(3), len(parameters))):
        parameters[path] = parameters[path] + 0.05 * jax.random.normal(key, parameters[path].shape)

    @jax.jit
    def computed(observation, batch):
        policy = structure.merge(parameters)
        batch = dataclasses.replace(batch, observation=observation)
        return policy.stages(observation), policy.act(observation), policy.loss(batch, key=None)

    batch = boxed(to_the_right(make_batch(config.data_requirements())), config)
    return config, structure, parameters, batch, lambda batch: computed(batch.observation, batch)


def test_nothing_that_is_padded_changes_actions_or_losses(tiny):
    _, _, _, batch, compute = tiny
    observation = batch.observation
    _, actions, losses = compute(batch)
    garbage = dataclasses.replace(
        observation,
        images={
            slot: jnp.where(observation.image_masks[slot][..., None, None, None], images, 77).astype(jnp.uint8)
            for slot, images in observation.images.items()
        },
        boxes=jnp.where(observation.box_masks[..., None], observation.boxes, jnp.array([0.1, 0.2, 0.8, 0.9])),
        instruction_tokens=jnp.where(observation.instruction_mask, observation.instruction_tokens, 7),
    )
    changed = dataclasses.replace(batch, observation=garbage, action=jnp.where(batch.action_mask, batch.action, 1e3))
    _, other_actions, other_losses = compute(changed)
    np.testing.assert_allclose(other_actions, actions, atol=1e-6)
    np.testing.assert_allclose(other_losses.total, losses.total, rtol=1e-5)
    assert losses.weight == batch.action_mask[:, -1:].sum()


def test_the_loss_is_the_weighted_sum_of_its_three_parts(tiny):
    config, _, _, batch, compute = tiny
    losses = compute(batch)[2]
    terms = losses.terms
    expected = terms["action"] + config.align_weight * terms["align"] + config.mask_weight * terms["mask"]
    np.testing.assert_allclose(losses.total, expected, rtol=1e-6)
    assert terms["action"] == terms["huber"]
    assert terms["align"] > 0
    assert terms["mask"] >= np.log(config.dfaf.num_selected)


def test_actions_depend_on_pictures_earlier_frames_boxes_and_words(tiny):
    _, _, _, batch, compute = tiny
    observation, actions = batch.observation, compute(batch)[1]
    pictures = observation.images["primary"]
    for change, rows in (
        ({"images": {"primary": pictures[:, :, ::-1]}}, [1, 2]),
        ({"images": {"primary": pictures.at[:, :-1].set(255 - pictures[:, :-1])}}, [1]),
        ({"boxes": observation.boxes[..., ::-1, :], "box_masks": observation.box_masks[..., ::-1]}, [1, 2]),
        ({"instruction_tokens": observation.instruction_tokens + 1}, [0, 1, 2]),
    ):
        changed = dataclasses.replace(batch, observation=dataclasses.replace(observation, **change))
        difference = np.abs(compute(changed)[1] - actions).max(axis=(1, 2))
        assert (difference[np.array(rows)] > 1e-6).all(), list(change)


def test_words_see_the_picture_in_the_first_blocks_and_without_boxes_there_is_a_grid(tiny):
    _, structure, parameters, batch, compute = tiny
    stages = compute(batch)[0]
    observation = batch.observation
    other = {"primary": observation.images["primary"][:, :, ::-1]}
    flipped = dataclasses.replace(batch, observation=dataclasses.replace(observation, images=other))
    assert np.abs(compute(flipped)[0]["text_states"][1] - stages["text_states"][1]).max() > 1e-5
    bare = dataclasses.replace(observation, boxes=None, box_masks=None)
    squares = jnp.broadcast_to(jnp.asarray(dfa_vla.grid_boxes(5)), observation.boxes.shape)
    gridded = dataclasses.replace(observation, boxes=squares, box_masks=jnp.ones_like(observation.box_masks))
    expected = compute(dataclasses.replace(batch, observation=gridded))[1]
    np.testing.assert_allclose(jax.jit(structure.merge(parameters).act)(bare), expected, atol=1e-5)


def test_attention_maps_are_weights_over_the_grid(tiny):
    _, structure, parameters, batch, _ = tiny
    maps = jax.jit(structure.merge(parameters).attention_maps)(batch.observation)["primary"]
    assert maps.shape == (3, 1, 16, 4, 4)
    np.testing.assert_allclose(maps.sum(axis=(-2, -1)), 1, rtol=1e-5)


def test_it_overfits_one_batch_and_all_but_the_mask_token_trains(tiny):
    _, structure, parameters, batch, _ = tiny
    batch = dataclasses.replace(batch, action=jnp.tanh(batch.action))
    optimizer = optax.adam(5e-3)

    @jax.jit
    def step(parameters, state):
        def loss(parameters):
            found = structure.merge(parameters).loss(batch, key=jax.random.key(0))
            return found.total, found.terms["action"]

        (_, action), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(parameters, updates), state, action

    moved, state, losses = parameters, optimizer.init(parameters), []
    for _ in range(60):
        moved, state, action = step(moved, state)
        losses.append(float(action))
    assert losses[-1] < 0.1 * losses[0]
    still = {path for path in parameters if np.array_equal(parameters[path], moved[path])}
    assert still == {"encoder/mask_token"}


@pytest.mark.parametrize("mode", ["weight_only", "dynamic"])
def test_it_acts_alike_in_eight_bits(tiny, mode):
    _, structure, parameters, batch, compute = tiny
    policy = structure.merge(parameters)
    QuantizationConfig(mode=mode).apply(policy)
    actions = compute(batch)[1]
    difference = np.abs(jax.jit(policy.act)(batch.observation) - actions).max()
    assert 0 < difference < 0.1 * np.abs(actions).max()


def test_a_released_encoder_loads_as_it_is(tiny, tmp_path):
    """Though several frames go through it: what they need lies beside it."""
    config, structure, _, _, _ = tiny
    theirs = transformers.Dinov2Model(transformers.Dinov2Config(**config.dinov2.settings()))
    theirs.save_pretrained(tmp_path / "dinov2")
    part, language = dataclasses.replace(
        config, encoder_weights=str(tmp_path / "dinov2"), frozen=("encoder",)
    ).pretrained_parts()
    assert (part.family, part.frozen, part.path) == ("dinov2", True, str(tmp_path / "dinov2"))
    assert (language.family, language.frozen, language.reads_text) == ("llama", False, True)
    loaded = load_pretrained(part, structure.shapes())
    expected = torch.Tensor.numpy(theirs.embeddings.patch_embeddings.projection.weight.detach())
    np.testing.assert_array_equal(loaded["encoder/patches/kernel"], expected.transpose(2, 3, 1, 0))


# ---- the other readings


def readings(space):
    """Name -> what is changed of the tiny twin, and lengths of the sequences: chosen tokens, and what is decoded from.

    The twin has 16 words, 16 cells, 5 boxes; 3 tokens are chosen.
    """

    def dfaf(**changes):
        return {"dfaf": DfafConfig(num_selected=3, **changes)}

    head = dfa_vla.tiny(dfa_vla.dfa_vla(space)).head
    return {
        "F alone": ({"sequence": "fused_only"}, 3, 3),
        "in place": (dfaf(selection="in_place"), 21, 37),
        "each word its own": (dfaf(selection="per_token"), 16, 32),
        "each block": ({"applied": "each_block"}, 3, 19),
        "vision first": ({"order": "vision_first", "attention": "causal"}, 3, 19),
        "all causal": ({"attention": "causal"}, 3, 19),
        "all mutual": ({"attention": "mutual"}, 3, 19),
        "from the third block's states": ({"candidates": "hidden"}, 3, 19),
        "mean over words": (dfaf(text_reduce="mean"), 3, 19),
        "words by a query": (dfaf(text_reduce="attention"), 3, 19),
        "vector gate": (dfaf(gate=GateConfig(kind="vector")), 3, 19),
        "sum": (dfaf(gate=GateConfig(kind="sum")), 3, 19),
        "mass in the box": (dfaf(mask_target="target_box"), 3, 19),
        "most alike box": ({"contrast": ContrastConfig(positive="self", learn_temperature=True)}, 3, 19),
        "other samples": ({"contrast": ContrastConfig(positive="in_batch")}, 3, 19),
        "the encoder's own grid": ({"grid_mode": "native", "dfaf": DfafConfig(num_selected=69)}, 69, 85),
        "features resized": ({"grid_mode": "feature_resize"}, 3, 19),
        "the mean of frames": ({"frames": "mean"}, 3, 19),
        "all frames' tokens": ({"frames": "concatenate", "dfaf": None}, None, 69),
        "one frame": ({"num_frames": 1}, 3, 19),
        "depth": ({"depth": DepthConfig()}, 3, 19),
        "no boxes": ({"boxes": None, "contrast": None, "dfaf": None}, None, 32),
        "bins": ({"head": dataclasses.replace(head, bins=6)}, 3, 19),
        "the mean of Y": ({"head": dataclasses.replace(head, reader="mean")}, 3, 19),
        "proprio": ({"proprio_token": True}, 3, 19),
    }


@pytest.fixture(scope="module")
def reading(action_space, request):
    return readings(action_space)


def test_every_reading_has_the_sequence_that_it_should(reading, action_space):
    for name, (changes, chosen, decoded) in reading.items():
        config = dataclasses.replace(dfa_vla.tiny(dfa_vla.dfa_vla(action_space)), **changes)
        structure = abstract(lambda config=config: config.build(nnx.Rngs(0)))
        observation = observation_shapes(config.data_requirements(), batch_size=2)
        stages = jax.eval_shape(lambda p, o: structure.merge(p).stages(o), structure.shapes(), observation)  # noqa: B023
        assert stages["hidden"].shape == (2, decoded, 24), name
        assert stages["actions"].shape == (2, 1, 3, 10), name
        assert chosen == (stages["fused_tokens"].shape[1] if "fused_tokens" in stages else None), name


SOME = ["F alone", "each word its own", "vision first", "mass in the box"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in SOME else pytest.mark.all_presets)
        for name in readings(dfa_vla.ActionSpace(form="", horizon=3, dimensions=(), proprio=()))
    ],
)
def test_every_reading_is_another_function_with_finite_gradients(name, reading, action_space, make_batch):
    default = dfa_vla.tiny(dfa_vla.dfa_vla(action_space))
    config = dataclasses.replace(default, **reading[name][0])
    batch = to_the_right(make_batch(config.data_requirements()))
    if config.boxes is not None:
        batch = dataclasses.replace(batch, target_box=jnp.zeros(batch.observation.timestep_mask.shape, jnp.int32))

    def computed(config):
        structure, parameters = split(config.build(nnx.Rngs(0)))

        def loss(parameters):
            return structure.merge(parameters).loss(batch, key=None).total

        return jax.jit(jax.value_and_grad(loss))(parameters)

    value, gradients = computed(config)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())
    if name in SOME:
        assert value != computed(default)[0]


@pytest.mark.parametrize(
    ("changes", "sees"),
    [
        ({}, True),
        ({"attention": "causal"}, False),
        ({"attention": "causal", "order": "vision_first"}, True),
    ],
)
def test_words_see_the_picture_where_the_mask_lets_them(action_space, make_batch, changes, sees):
    config = dataclasses.replace(dfa_vla.tiny(dfa_vla.dfa_vla(action_space)), **changes)
    structure, parameters = split(config.build(nnx.Rngs(0)))
    observation = to_the_right(make_batch(config.data_requirements())).observation
    flipped = dataclasses.replace(observation, images={"primary": observation.images["primary"][:, :, ::-1]})
    states = jax.jit(lambda observation: structure.merge(parameters).read(observation).text.tokens)
    assert (np.abs(states(flipped) - states(observation)).max() > 1e-6) == sees


def test_chosen_tokens_keep_their_positions(action_space, make_batch):
    config = dfa_vla.tiny(dfa_vla.dfa_vla(action_space))
    policy = config.build(nnx.Rngs(0))
    observation = to_the_right(make_batch(config.data_requirements())).observation

    @jax.jit
    def places(observation):
        found = policy.read(observation)
        return found.memory.positions, found.fused.chosen

    positions, chosen = places(observation)
    np.testing.assert_array_equal(positions[:, :16], np.broadcast_to(np.arange(16), (3, 16)))
    np.testing.assert_array_equal(positions[:, 16:], 16 + chosen)


def test_models_are_what_table_3_says(action_space):
    one, two, three, four, five = (model(action_space) for model in dfa_vla.MODELS)
    assert one.elementwise is not None
    assert one.imagenet_vit == three.imagenet_vit is not None
    assert (two.dfaf, three.boxes, four.dfaf.gate.kind, four.dfaf.gate.value) == (None, None, "constant", 0.5)
    assert five.dfaf.gate.kind == three.dfaf.gate.kind == "scalar"
    assert (five.dfaf.num_selected, five.boxes.count, five.cells) == (5, 16, 14)
    needs = five.data_requirements()
    assert (needs.window, needs.window_anchor, needs.cameras[0].height) == (3, "last", 196)
    assert needs.boxes.smallest_side == pytest.approx(1 / 14)


def test_impossible_configs_are_refused(action_space):
    config = dfa_vla.tiny(dfa_vla.dfa_vla(action_space))
    for change, message in (
        ({"dinov2": None}, "exactly one"),
        ({"imagenet_vit": dfa_vla.imagenet_vit.tiny()}, "exactly one"),
        ({"text_length": 0}, "text_length=0"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"prefix_layers": 9}, "prefix_layers=9"),
        ({"prefix_layers": 0}, "prefix_layers=0"),
        ({"resolution": 72}, "resolution=72"),
        ({"depth": DepthConfig(), "frames": "mean"}, "inflate"),
        ({"boxes": None}, "in_batch"),
        ({"elementwise": ElementwiseConfig()}, "elementwise"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(config, **change)
