"""VL-MoT: the mask of Figure 3c, Eq. 2-4 to the letter, and what may flow where."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.fusion.shared_attention import Branch, Shared, SharedAttentionConfig, shared_mask
from vla_jax.nn import masks
from vla_jax.nn.attention import AttentionConfig, KeyValue
from vla_jax.nn.block import BlockConfig
from vla_jax.nn.mlp import GatedMlpConfig, MlpConfig
from vla_jax.nn.norms import RmsNormConfig
from vla_jax.nn.rotary import text_rotation
from vla_jax.nn.stack import NO_TAPS, StackConfig, Taps

DECODER = BlockConfig(
    attention=AttentionConfig(
        width=20, num_heads=4, num_key_value_heads=2, head_width=6, biases=(), head_norm=RmsNormConfig()
    ),
    mlp=GatedMlpConfig(hidden_width=28),
    norm=RmsNormConfig(),
)
EXPERT = BlockConfig(attention=AttentionConfig(width=24, num_heads=3), mlp=MlpConfig(hidden_width=30))
LENGTH, COUNT, PREFIX = 7, 9, 2


def test_the_mask_is_that_of_figure_3c():
    """Two tokens of the expert, one visual, one of text, two actions; rows are queries."""
    own = masks.causal(4) | (jnp.arange(4) >= 2)[:, None]
    found = shared_mask(jnp.ones((1, 2), bool), own[None])[0]
    figure = [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
    ]
    np.testing.assert_array_equal(found, np.array(figure, bool))


def test_rows_that_do_not_read_and_pictures_that_are_not_there_are_masked():
    own = jnp.ones((1, 3, 3), bool)
    readers = jnp.array([[True, False, True]])
    found = shared_mask(jnp.array([[True, False]]), own, readers)[0]
    np.testing.assert_array_equal(found[2:, :2], [[True, False], [False, False], [True, False]])


@pytest.fixture(scope="module")
def stacks():
    decoder = StackConfig(block=DECODER, num_layers=3).build(nnx.Rngs(0))
    expert = StackConfig(block=EXPERT, num_layers=4).build(nnx.Rngs(1))
    return decoder, expert


def _branches(stacks, seed: int = 0, **expert_changes):
    keys = jax.random.split(jax.random.key(seed), 2)
    positions = jnp.broadcast_to(jnp.arange(LENGTH), (2, LENGTH))
    mask = jnp.broadcast_to(masks.causal(LENGTH), (2, LENGTH, LENGTH))
    decoder = Branch(
        stacks[0], 1, jax.random.normal(keys[0], (2, LENGTH, 20)), text_rotation(positions, 6, 100.0), mask=mask
    )
    turning = text_rotation(jnp.broadcast_to(jnp.arange(COUNT), (2, COUNT)), 8, 50.0)
    expert = Branch(stacks[1], 2, jax.random.normal(keys[1], (2, COUNT, 24)), turning)
    return decoder, expert._replace(**expert_changes)


def _shared(is_there=True) -> Shared:
    rotation = text_rotation(jnp.broadcast_to(jnp.arange(COUNT), (2, COUNT)), 6, 100.0)
    return Shared(lambda x: x[:, PREFIX:], rotation, jnp.full((2, LENGTH, COUNT - PREFIX), is_there))


def _module(config: SharedAttentionConfig, num_layers: int = 2):
    """With norms and biases that are not those of the beginning."""
    module = config.build(DECODER.attention, EXPERT.attention, num_layers, nnx.Rngs(2))
    graph, state = nnx.split(module)
    noisy = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(a.size), a.shape), state)
    return nnx.merge(graph, noisy)


CONFIGS = {
    "native": SharedAttentionConfig(),
    "aligned": SharedAttentionConfig(expert_attention="aligned"),
    "hidden": SharedAttentionConfig(align_to="hidden"),
    "aligned_hidden": SharedAttentionConfig(expert_attention="aligned", align_to="hidden"),
    "key_norm": SharedAttentionConfig(key_norm=True),
    "bias": SharedAttentionConfig(bias_init=-4.0),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_of_the_language_model_reaches_the_expert_and_the_expert_reaches_the_language_model(stacks, name):
    module = _module(CONFIGS[name])
    run = jax.jit(lambda x, e: module(decoder._replace(tokens=x), expert._replace(tokens=e), _shared()))
    decoder, expert = _branches(stacks)
    x, e = run(decoder.tokens, expert.tokens)
    other_x, same_e = run(decoder.tokens + 1.0, expert.tokens)
    np.testing.assert_array_equal(e, same_e)
    assert np.abs(x - other_x).max() > 1e-2
    seen, _ = run(decoder.tokens, expert.tokens[::-1])
    assert np.abs(x - seen).max() > 1e-4


def test_every_variant_computes_something_else(stacks):
    decoder, expert = _branches(stacks)
    found = {name: _module(config)(decoder, expert, _shared())[0] for name, config in CONFIGS.items()}
    names = list(found)
    for number, name in enumerate(names):
        for other in names[number + 1 :]:
            assert np.abs(found[name] - found[other]).max() > 1e-4, (name, other)


def test_the_expert_s_own_attention_leaves_it_what_it_was(stacks):
    decoder, expert = _branches(stacks)
    _, e = _module(CONFIGS["native"])(decoder, expert, _shared())
    np.testing.assert_allclose(e, stacks[1](expert.tokens, rotation=expert.rotation, span=(2, 4)), atol=1e-5)
    _, literal = _module(CONFIGS["aligned"])(decoder, expert, _shared())
    assert np.abs(literal - e).max() > 1e-2


def test_aligned_attention_is_equation_3_and_4_over_both_branches_at_once(stacks):
    """One layer; all tokens of the expert are shared. One softmax over [E; Z] under the mask of the figure."""
    module = _module(CONFIGS["aligned"], num_layers=1)
    decoder, expert = _branches(stacks)
    shared = _shared()._replace(select=lambda x: x, mask=jnp.ones((2, LENGTH, COUNT), bool))
    x, e = module(decoder, expert, shared)
    aligner = jax.tree.map(lambda a: a[0], module.aligners)
    block, partner = stacks[0].block(1), stacks[1].block(2)
    found, own = partner.projections(expert.tokens), block.projections(decoder.tokens, rotation=decoder.rotation)
    query_e = aligner.queries(found.query, block.attention, shared.rotation)
    key_e, value_e = aligner.key_value(KeyValue(found.key, found.value), block.attention, shared.rotation)
    query = jnp.concatenate([query_e, own.query], axis=1)
    key, value = (jnp.repeat(jnp.concatenate(both, 1), 2, axis=2) for both in ((key_e, own.key), (value_e, own.value)))
    mask = shared_mask(jnp.ones((2, COUNT), bool), decoder.mask)
    scores = jnp.einsum("bqhf,bkhf->bhqk", query, key) * 6**-0.5
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf), axis=-1)
    both = jnp.einsum("bhqk,bkhf->bqhf", weights, value).reshape(2, COUNT + LENGTH, -1)
    np.testing.assert_allclose(x, block.finish(decoder.tokens, block.attention.out(both[:, COUNT:])), atol=2e-5)
    back = partner.attention.out(aligner.out(both[:, :COUNT]))
    np.testing.assert_allclose(e, partner.finish(expert.tokens, back), atol=2e-5)


def test_masked_keys_reproduce_the_layers_without_an_expert_bit_for_bit(stacks):
    decoder, expert = _branches(stacks)
    module = _module(CONFIGS["native"])

    def alone(x):
        return stacks[0].run(x, NO_TAPS, mask=decoder.mask, rotation=decoder.rotation, span=(1, 3)).tokens

    masked = jax.jit(lambda x: module(decoder._replace(tokens=x), expert, _shared(False))[0])(decoder.tokens)
    np.testing.assert_array_equal(masked, jax.jit(alone)(decoder.tokens))


def test_a_low_bias_hides_the_expert_and_one_of_zero_is_none(stacks):
    decoder, expert = _branches(stacks)
    plain = CONFIGS["native"].build(DECODER.attention, EXPERT.attention, 2, nnx.Rngs(2))

    def with_bias(value: float):
        config = dataclasses.replace(CONFIGS["native"], bias_init=value)
        return config.build(DECODER.attention, EXPERT.attention, 2, nnx.Rngs(2))(decoder, expert, _shared())[0]

    np.testing.assert_allclose(with_bias(0.0), plain(decoder, expert, _shared())[0], atol=1e-5)
    np.testing.assert_allclose(with_bias(-1e4), plain(decoder, expert, _shared(False))[0], atol=1e-5)


def test_layers_of_the_expert_that_are_passed_over_are_run(stacks):
    """Two of the expert's to one of the language model's: the second of each shares, and all four run."""
    decoder, expert = _branches(stacks, start=0, stride=2)
    x, e = _module(CONFIGS["native"])(decoder, expert, _shared())
    np.testing.assert_allclose(e, stacks[1](expert.tokens, rotation=expert.rotation), atol=1e-5)
    inputs = stacks[1].run(expert.tokens, Taps((0, 2)), rotation=expert.rotation).layers
    module = _module(CONFIGS["native"])
    np.testing.assert_allclose(module.read(decoder, inputs, stacks[1], (1, 3), _shared()), x, atol=1e-5)
