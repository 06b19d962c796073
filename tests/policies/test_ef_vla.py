"""EF-VLA: sizes of the presets, what the policy may and may not look at, what trains."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vla_jax.encoders import clip
from vla_jax.fusion.cross_fusion import CrossFusionConfig
from vla_jax.parameters import abstract, matching, split
from vla_jax.policies import ef_vla
from vla_jax.types import InputError

PRESETS = ef_vla.PRESETS


def _millions(config) -> dict[str, float]:
    shapes = abstract(lambda: config.build(nnx.Rngs(0))).shapes()
    frozen = matching(shapes, config.frozen_paths())
    sizes = {path: np.prod(shape.shape, dtype=np.int64) for path, shape in shapes.items()}
    return {
        "trainable": sum(size for path, size in sizes.items() if path not in frozen) / 1e6,
        "frozen": sum(size for path, size in sizes.items() if path in frozen) / 1e6,
    }


@pytest.mark.parametrize(
    ("preset", "clip", "trainable", "frozen"),
    [
        ("ef_vla", "b32", 11.63, 151.3),
        ("ef_vla", "b16", 11.63, 149.6),
        ("ef_vla", "l14", 11.79, 427.6),
        ("ef_vla_l", "b32", 25.4, 151.3),
        ("ef_vla_l", "l14", 25.5, 427.6),
    ],
)
def test_presets_have_the_published_sizes(action_space, preset, clip, trainable, frozen):
    config = PRESETS[preset](dataclasses.replace(action_space, horizon=12), clip)
    assert config.step_width == 704
    millions = _millions(config)
    assert millions["trainable"] == pytest.approx(trainable, abs=0.06)
    assert millions["frozen"] == pytest.approx(frozen, abs=0.06)


@pytest.mark.parametrize(
    ("preset", "trainable"),
    [
        ("otter_torch", 30.4),  # papers.md 2.8: 30.3 to 30.5
        ("otter_jax", 25.5),
        ("lf_vla", 11.79),
        ("ef_xattn", 11.79 + 2 * 4 * (768 * 768 + 768) / 1e6),  # an attention a camera
        ("ef_ft_clip", 11.79 + 427.6),
    ],
)
def test_variants_have_their_sizes(action_space, preset, trainable):
    config = PRESETS[preset](dataclasses.replace(action_space, horizon=12))
    assert _millions(config)["trainable"] == pytest.approx(trainable, rel=0.005)


def test_ablations_take_their_part_out_of_the_step_token(action_space):
    widths = {name: PRESETS[name](action_space).step_width for name in ("ef_vla", "ef_wo_fe", "ef_wo_fl")}
    assert widths == {"ef_vla": 704, "ef_wo_fe": 640, "ef_wo_fl": 576}


def test_without_clip_vision_a_small_vit_trains_and_clip_text_stays_frozen(action_space):
    millions = _millions(ef_vla.ef_wo_clip_vision(dataclasses.replace(action_space, horizon=12)))
    vit_and_projection = 2.86 + 192 * 768 / 1e6
    assert millions["trainable"] == pytest.approx(11.79 + vit_and_projection, abs=0.06)
    assert millions["frozen"] == pytest.approx(123.1 + 768 * 768 / 1e6, abs=0.6)


@pytest.fixture(scope="module", params=["ef_vla", "ef_wo_clip_vision"])
def tiny(request, action_space, make_batch):
    config = ef_vla.tiny(PRESETS[request.param](action_space))
    return config, config.build(nnx.Rngs(0)), make_batch(config.data_requirements())


def test_padding_changes_neither_loss_nor_actions(tiny):
    _, policy, batch = tiny
    observation = batch.observation
    noise = jax.random.normal(jax.random.key(9), observation.proprio.shape)
    garbage = {
        slot: jnp.where(observation.image_masks[slot][..., None, None, None], images, 77).astype(jnp.uint8)
        for slot, images in observation.images.items()
    }
    changed = dataclasses.replace(
        observation,
        images=garbage,
        proprio=jnp.where(observation.timestep_mask[..., None], observation.proprio, noise),
    )
    padded_actions = jnp.where(batch.action_mask, batch.action, 1e3)
    other = dataclasses.replace(batch, observation=changed, action=padded_actions)
    np.testing.assert_allclose(policy.act(changed), policy.act(observation), atol=1e-5)
    np.testing.assert_allclose(policy.loss(other, key=None).total, policy.loss(batch, key=None).total, rtol=1e-5)


def _compiled(policy):
    """loss and act of an observation and batch."""
    structure, parameters = split(policy)
    loss = jax.jit(lambda parameters, batch: structure.merge(parameters).loss(batch, key=None).total)
    act = jax.jit(lambda parameters, observation: structure.merge(parameters).act(observation))
    return lambda batch: loss(parameters, batch), lambda observation: act(parameters, observation)


MADE_OF_THE_SAME = ("ef_vla", "ef_vla_l", "ef_ft_clip")
"""What they look at is tested with the first."""
IN_SHORT = ("lf_vla_cls", "otter_torch")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in IN_SHORT else pytest.mark.all_presets)
        for name in PRESETS
        if name not in MADE_OF_THE_SAME
    ],
)
def test_every_variant_sees_pictures_words_and_proprio_but_no_padding(name, action_space, make_batch):
    config = ef_vla.tiny(PRESETS[name](action_space))
    batch = make_batch(config.data_requirements())
    loss, act = _compiled(config.build(nnx.Rngs(0)))
    observation, before = batch.observation, act(batch.observation)
    garbage = dataclasses.replace(
        observation,
        proprio=jnp.where(observation.timestep_mask[..., None], observation.proprio, 9.0),
        instruction_tokens=jnp.where(observation.instruction_mask, observation.instruction_tokens, 77),
        images={
            slot: jnp.where(observation.image_masks[slot][..., None, None, None], images, 77).astype(jnp.uint8)
            for slot, images in observation.images.items()
        },
    )
    other = dataclasses.replace(batch, observation=garbage, action=jnp.where(batch.action_mask, batch.action, 1e3))
    np.testing.assert_allclose(act(garbage), before, atol=1e-5)
    np.testing.assert_allclose(loss(other), loss(batch), rtol=1e-5)
    seen = {
        "images": {slot: jnp.zeros_like(images) for slot, images in observation.images.items()},
        "instruction_tokens": observation.instruction_tokens[::-1],
        "proprio": observation.proprio + 1.0,
    }
    for leaf, changed in seen.items():
        moved = np.abs(act(dataclasses.replace(observation, **{leaf: changed})) - before).max() > 1e-4
        assert bool(moved) != (name == "ef_wo_fe" and leaf == "proprio"), leaf


@pytest.mark.parametrize(("choice", "moves"), [("all", True), ("valid", False), ("words", False)])
def test_pooled_text_tokens_are_those_that_were_chosen(choice, moves, action_space, make_batch):
    """Features of padding, put in by hand: what CLIP makes of it is the same whatever the ids."""
    config = dataclasses.replace(ef_vla.tiny(ef_vla.ef_vla(action_space)), text_mask=choice)
    batch, policy = make_batch(config.data_requirements()), config.build(nnx.Rngs(0))
    observation = batch.observation
    text = policy.read_instruction(observation.instruction_tokens, observation.instruction_mask)

    def moved_by(tokens) -> bool:
        changed = jnp.where(tokens[..., None], text[::-1, ::-1], text)
        return np.abs(policy.step_tokens(observation, changed) - policy.step_tokens(observation, text)).max() > 1e-5

    mask = observation.instruction_mask
    assert moved_by(~mask) is np.bool_(moves)
    assert moved_by(mask)
    start = jnp.zeros_like(mask).at[:, 0].set(True)
    assert moved_by(start) is np.bool_(choice != "words")


def test_actions_depend_on_pictures_words_and_proprio(tiny):
    _, policy, batch = tiny
    observation, actions = batch.observation, policy.act(batch.observation)
    black = {slot: jnp.zeros_like(images) for slot, images in observation.images.items()}
    for change in (
        {"images": black},
        {"instruction_tokens": observation.instruction_tokens[::-1]},
        {"proprio": observation.proprio + 1.0},
    ):
        assert np.abs(policy.act(dataclasses.replace(observation, **change)) - actions).max() > 1e-4, list(change)


def test_the_future_is_hidden(tiny):
    _, policy, batch = tiny
    observation = dataclasses.replace(batch.observation, timestep_mask=jnp.ones_like(batch.observation.timestep_mask))
    later = dataclasses.replace(observation, proprio=observation.proprio.at[:, -1].add(5.0))
    before = policy.context(observation, key=None).queries
    after = policy.context(later, key=None).queries
    np.testing.assert_allclose(before[:, :-1], after[:, :-1], atol=1e-5)
    assert np.abs(before[:, -1] - after[:, -1]).max() > 1e-3


def test_act_reads_the_last_valid_step(tiny):
    _, policy, batch = tiny
    context = policy.context(batch.observation, key=None)
    chunks = policy.head.sample(context, key=None)
    expected = jnp.stack([chunks[0, 3], chunks[1, 1], chunks[2, 0]])
    np.testing.assert_allclose(policy.act(batch.observation), expected, atol=1e-6)


def test_training_lowers_the_loss_and_moves_the_temperature_but_not_clip(tiny):
    config, policy, batch = tiny
    structure, parameters = split(policy)
    frozen_paths = matching(parameters, config.frozen_paths())
    frozen = {path: value for path, value in parameters.items() if path in frozen_paths}
    trainable = {path: value for path, value in parameters.items() if path not in frozen_paths}
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(trainable, state, key):
        def loss(trainable):
            return structure.merge(trainable | frozen).loss(batch, key=key).total

        value, gradient = jax.value_and_grad(loss)(trainable)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(trainable, updates), state, value

    moved, state = trainable, optimizer.init(trainable)
    losses = []
    for key in jax.random.split(jax.random.key(0), 30):
        moved, state, value = step(moved, state, key)
        losses.append(value)
    assert losses[-1] < 0.8 * losses[0]
    still = [path for path in trainable if np.array_equal(trainable[path], moved[path])]
    assert not still, "every trainable parameter moves, the temperatures among them"
    assert any(path.startswith("fusion/") for path in moved)


def test_every_parameter_of_the_late_fusion_scratch_twin_trains(action_space, make_batch):
    config = ef_vla.lf_vla_scratch(action_space, image_size=16, patch_size=8, width=16)
    structure, parameters = split(config.build(nnx.Rngs(0)))
    batch = make_batch(config.data_requirements())
    gradient = jax.jit(jax.grad(lambda parameters: structure.merge(parameters).loss(batch, key=None).total))
    still = {path for path, found in gradient(parameters).items() if not np.abs(found).any()}
    only_step = {p for p in parameters if p.startswith(("trunk/blocks/attention/query", "trunk/blocks/attention/key"))}
    assert still == only_step, "a window of one step: the trunk has nothing to choose between"
    assert not [path for path in parameters if path.startswith("fusion/")], "Eq. 4's temperature is not there"


def test_dropout_and_noise_follow_the_key(tiny):
    _, policy, batch = tiny
    one, two = policy.loss(batch, key=jax.random.key(1)).total, policy.loss(batch, key=jax.random.key(2)).total
    assert one != two
    assert one == policy.loss(batch, key=jax.random.key(1)).total


def test_its_part_says_how_its_encoder_normalises_pictures(action_space):
    """CLIP's vision half where it is there; text alone sees no pictures."""
    (whole,) = ef_vla.ef_vla(action_space).pretrained_parts()
    (text,) = ef_vla.ef_wo_clip_vision(action_space).pretrained_parts()
    assert whole.normalization == ((clip.CLIP_MEAN, clip.CLIP_STD),)
    assert text.normalization == ()


def test_impossible_configs_are_refused(action_space):
    config = ef_vla.tiny(ef_vla.ef_vla(action_space))
    for change, message in (
        ({"cameras": ()}, "cameras"),
        ({"cameras": ("primary", "primary")}, "cameras"),
        ({"clip": dataclasses.replace(config.clip, vision=None)}, "exactly one"),
        ({"clip": dataclasses.replace(config.clip, text=None)}, "text is None"),
        ({"fusion": CrossFusionConfig(width=7, num_heads=1)}, "fusion.width=7"),
        ({"window": 0}, "window=0"),
        ({"text_length": 0}, "text_length=0"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(config, **change)
