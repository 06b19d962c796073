"""What the decoder core offers beside a plain pass: spans, extra keys and values, additions, taps."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.language.llama import tiny
from vla_jax.language.release_settings import decoder_fields
from vla_jax.nn import masks
from vla_jax.nn.attention import KeyValue
from vla_jax.nn.stack import Taps
from vla_jax.parameters import abstract, split
from vla_jax.types import InputError

CONFIG = tiny().decoder
NEAR = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def decoder():
    return CONFIG.build(nnx.Rngs(0))


@pytest.fixture(scope="module")
def inputs(decoder):
    """Embeddings, mask and rotation."""
    ids = jax.random.randint(jax.random.key(1), (2, 5), 0, 99)
    return decoder.embed(ids), masks.causal(5), decoder.rotation(jnp.tile(jnp.arange(5), (2, 1)))


@pytest.fixture(scope="module")
def whole(decoder, inputs):
    x, mask, rotation = inputs
    return decoder.hidden(x, mask=mask, rotation=rotation, taps=Taps([0, 1, 2], [0, 1, 2]))


def test_two_ranges_of_layers_equal_one_go(decoder, inputs, whole):
    x, mask, rotation = inputs
    first = decoder.hidden(x, mask=mask, rotation=rotation, span=(0, 2)).tokens
    second = decoder.hidden(first, mask=mask, rotation=rotation, span=(2, None)).tokens

    np.testing.assert_allclose(first, whole.layers[1], **NEAR)
    np.testing.assert_allclose(second, whole.tokens, **NEAR)
    np.testing.assert_allclose(decoder.final_norm(whole.layers[2]), whole.tokens, **NEAR)
    skipped = decoder.hidden(x, mask=mask, rotation=rotation, span=(2, None)).tokens
    assert np.abs(skipped - whole.tokens).max() > 0.1


def test_extra_keys_and_values_that_are_masked_change_nothing(decoder, inputs, whole):
    x, mask, rotation = inputs
    shape = (CONFIG.num_layers, 2, 4, CONFIG.num_key_value_heads, CONFIG.head_width)
    extra = KeyValue(*(jax.random.normal(jax.random.key(seed), shape) for seed in (2, 3)))
    hidden, seen = (jnp.concatenate([jnp.full((5, 4), flag), mask], axis=1) for flag in (False, True))

    masked = decoder.hidden(x, mask=hidden, rotation=rotation, extra=extra)
    np.testing.assert_allclose(masked.tokens, whole.tokens, **NEAR)
    assert np.abs(decoder.hidden(x, mask=seen, rotation=rotation, extra=extra).tokens - whole.tokens).max() > 0.1


def test_keys_and_values_of_a_prefix_stand_in_for_its_tokens(decoder, inputs, whole):
    x, mask, rotation = inputs
    prefix = KeyValue(whole.projections.key[:, :, :3], whole.projections.value[:, :, :3])
    later = jax.tree.map(lambda angle: angle[:, 3:], rotation)

    rest = decoder.hidden(x[:, 3:], mask=mask[3:], rotation=later, extra=prefix)

    np.testing.assert_allclose(rest.tokens, whole.tokens[:, 3:], **NEAR)


def test_steps_with_a_cache_equal_one_go(decoder, inputs, whole):
    x, mask, rotation = inputs
    shape = (CONFIG.num_layers, 2, 5, CONFIG.num_key_value_heads, CONFIG.head_width)
    cache, found = KeyValue(jnp.zeros(shape), jnp.zeros(shape)), []
    for part in (slice(0, 2), slice(2, 3), slice(3, 5)):
        own = jax.tree.map(lambda angle, part=part: angle[:, part], rotation)
        columns = jnp.broadcast_to(mask[part], (2, *mask[part].shape))
        tokens, cache = decoder.step(x[:, part], cache, slot=part.start, mask=columns, rotation=own)
        found.append(tokens)

    np.testing.assert_allclose(jnp.concatenate(found, axis=1), whole.tokens, **NEAR)
    np.testing.assert_allclose(cache.key, whole.projections.key, **NEAR)
    np.testing.assert_allclose(cache.value, whole.projections.value, **NEAR)


def test_additions_go_to_the_outputs_of_the_first_layers(decoder, inputs):
    x, mask, rotation = inputs
    additions = jax.random.normal(jax.random.key(4), (2, *x.shape))
    found = decoder.hidden(x, mask=mask, rotation=rotation, additions=additions, taps=Taps([0, 1, 2]))

    expected = x
    for layer in range(3):
        expected = decoder.stack.block(layer)(expected, mask=mask, rotation=rotation)
        expected = expected + additions[layer] if layer < 2 else expected
        np.testing.assert_allclose(found.layers[layer], expected, **NEAR)
    with pytest.raises(InputError, match="2 additions to the outputs of the 1 layers 2:3"):
        decoder.hidden(x, mask=mask, rotation=rotation, additions=additions, span=(2, None))


def test_ids_outside_the_vocabulary_give_nan(decoder):
    rows = np.isnan(np.asarray(decoder.embed(jnp.array([-1, 0, 98, 99])))).all(axis=-1)
    assert rows.tolist() == [True, False, False, True]


def test_a_train_step_is_compiled_once(decoder, inputs):
    """What comes back from a step has the types that went in, weak ones included."""
    x, mask, rotation = inputs
    structure, parameters = split(decoder)

    @jax.jit
    def step(parameters):
        gradients = jax.grad(
            lambda p: structure.merge(p).hidden(x, mask=mask, rotation=rotation).tokens.astype(jnp.float32).sum()
        )(parameters)
        return jax.tree.map(lambda parameter, gradient: parameter - 0.1 * gradient, parameters, gradients)

    step(step(parameters))
    assert step._cache_size() == 1


def test_a_range_of_layers_copies_no_parameters():
    config = dataclasses.replace(CONFIG, width=64, mlp_width=512, num_layers=16)
    structure = abstract(lambda: config.build(nnx.Rngs(0)))

    def run(parameters, x):
        model, mask = structure.merge(parameters), masks.causal(4)
        rotation = model.rotation(jnp.arange(4)[None])
        first = model.hidden(x, mask=mask, rotation=rotation, span=(0, 3), taps=Taps([1])).tokens
        return model.hidden(first, mask=mask, rotation=rotation, span=(3, None)).tokens

    compiled = jax.jit(run).lower(structure.shapes(), jax.ShapeDtypeStruct((1, 4, 64), jnp.float32)).compile()
    layer = 4 * sum(math.prod(s.shape[1:]) for path, s in structure.shapes().items() if path.startswith("stack/"))
    assert compiled.memory_analysis().temp_size_in_bytes < 3 * layer


def test_parameters_know_their_axes():
    axes = abstract(lambda: CONFIG.build(nnx.Rngs(0))).logical_axes()
    assert axes["tokens"] == ("vocab", "embed")
    assert axes["head/kernel"] == ("embed", "vocab")
    assert axes["stack/blocks/attention/key/kernel"] == ("layers", "embed", "heads:2")
    assert axes["stack/blocks/mlp/gate/kernel"] == ("layers", "embed", "mlp")


def test_fields_are_told_by_settings_alone():
    fields = decoder_fields(tiny().settings())
    assert {name: getattr(CONFIG, name) for name in fields} == fields
