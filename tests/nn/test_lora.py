"""Adapters on linear layers, alone and stacked: what they compute, what they merge to, what is refused.

Axes: b batch, n tokens, d width, l layers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax import parameters as parameter_paths
from vla_jax.nn.linear import linear
from vla_jax.nn.lora import LoraConfig
from vla_jax.types import InputError

LAYERS, WIDTH, HIDDEN = 3, 6, 10


class Block(nnx.Module):
    def __init__(self, rngs):
        self.up = linear(WIDTH, HIDDEN, ("embed", "mlp"), rngs=rngs)
        self.down = linear(HIDDEN, WIDTH, ("mlp", "embed"), rngs=rngs, use_bias=False)

    def __call__(self, x):
        return x + self.down(jnp.tanh(self.up(x)))


class Model(nnx.Module):
    """A list, a dictionary and a stack: all places that a linear layer may stand in."""

    def __init__(self, rngs):
        self.first = nnx.List([linear(WIDTH, WIDTH, (None, "embed"), rngs=rngs) for _ in range(2)])
        self.named = nnx.Dict({"wrist": linear(WIDTH, WIDTH, (None, "embed"), rngs=rngs)})
        self.blocks = jax.vmap(lambda key: Block(nnx.Rngs(key)))(jax.random.split(rngs.params(), LAYERS))

    def __call__(self, x):
        x = self.named["wrist"](self.first[1](self.first[0](x)))
        return jax.lax.scan(lambda x, block: (block(x), None), x, self.blocks)[0]


TARGETS = ("blocks/(up|down)", "first/1", "named/wrist")
LORA = LoraConfig(targets=TARGETS, rank=2, alpha=6.0)


def build(config=LORA):
    rngs = nnx.Rngs(0)
    model = Model(rngs)
    config.apply(model, rngs)
    return model


def randomized(structure):
    """No zeros: a fresh adapter adds nothing."""
    generator = np.random.default_rng(0)
    return {
        path: generator.normal(size=shape.shape).astype(np.float32) / 2 for path, shape in structure.shapes().items()
    }


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (2, 5, WIDTH))


def test_an_adapted_model_begins_as_the_model_that_it_adapts(x):
    np.testing.assert_allclose(jax.jit(build())(x), jax.jit(Model(nnx.Rngs(0)))(x), rtol=1e-6, atol=1e-6)


def test_parameters_of_the_model_keep_their_paths_and_adapters_their_axes():
    before = parameter_paths.abstract(lambda: Model(nnx.Rngs(0)))
    after = parameter_paths.abstract(build)
    shapes, axes = after.shapes(), after.logical_axes()
    assert {path: shapes[path].shape for path in before.shapes()} == {p: s.shape for p, s in before.shapes().items()}
    assert {path: shapes[path].shape for path in shapes.keys() - before.shapes().keys()} == {
        "blocks/up/lora_a": (LAYERS, WIDTH, 2),
        "blocks/up/lora_b": (LAYERS, 2, HIDDEN),
        "blocks/down/lora_a": (LAYERS, HIDDEN, 2),
        "blocks/down/lora_b": (LAYERS, 2, WIDTH),
        **{f"{layer}/lora_a": (WIDTH, 2) for layer in ("first/1", "named/wrist")},
        **{f"{layer}/lora_b": (2, WIDTH) for layer in ("first/1", "named/wrist")},
    }
    assert axes["blocks/up/lora_a"] == ("layers", "embed", None)
    assert axes["blocks/up/lora_b"] == ("layers", None, "mlp")
    assert axes["blocks/up/kernel"] == ("layers", "embed", "mlp")


def test_the_layers_of_a_stack_draw_different_adapters():
    a = parameter_paths.split(build())[1]["blocks/up/lora_a"]
    assert 0 < np.abs(a).max() <= WIDTH**-0.5
    assert not np.array_equal(a[0], a[1])


@pytest.mark.parametrize("where", ["host", "device"])
def test_merged_parameters_compute_the_same_without_adapters(x, where):
    structure, plain = parameter_paths.abstract(build), parameter_paths.abstract(lambda: Model(nnx.Rngs(0)))
    parameters = randomized(structure)
    merged = LORA.merge(parameters if where == "host" else jax.device_put(parameters))
    assert merged.keys() == plain.shapes().keys()
    expected = np.asarray(structure.merge(parameters)(x))
    error = np.abs(plain.merge(merged)(x) - expected).max() / np.abs(expected).max()
    assert error < 1e-5
    unscaled = LoraConfig(targets=TARGETS, rank=2, alpha=2.0).merge(parameters)
    assert np.abs(plain.merge(unscaled)(x) - expected).max() / np.abs(expected).max() > 0.1


def test_a_bfloat16_kernel_is_summed_in_float32_and_stays_bfloat16():
    parameters = {name: array.astype(jnp.bfloat16) for name, array in randomized(_of_one()).items()}
    merged = LoraConfig(targets=("first/1",), rank=2, alpha=6.0).merge(parameters)["first/1/kernel"]
    kernel, a, b = (np.asarray(parameters[f"first/1/{n}"], np.float32) for n in ("kernel", "lora_a", "lora_b"))
    assert merged.dtype == jnp.bfloat16
    np.testing.assert_array_equal(merged, (kernel + 3 * a @ b).astype(jnp.bfloat16))


def _of_one():
    return parameter_paths.abstract(lambda: build(LoraConfig(targets=("first/1",), rank=2, alpha=6.0)))


def test_only_adapters_and_what_is_named_train():
    paths = parameter_paths.abstract(build).shapes()
    config = LoraConfig(targets=TARGETS, trained=("first/0/.*",))
    adapters = {path for path in paths if "lora" in path}
    assert len(adapters) == 8
    assert config.trainable(paths, frozenset()) == adapters | {"first/0/kernel", "first/0/bias"}


@pytest.mark.parametrize(
    ("trained", "frozen", "message"),
    [
        ("head/.*", (), "no parameter matches 'head/"),
        ("first/0/.*", ("first/0/kernel",), "which the policy freezes"),
        ("blocks/.*", (), "which lora.targets adapts"),
    ],
)
def test_what_cannot_train_in_full_is_refused(trained, frozen, message):
    paths = parameter_paths.abstract(build).shapes()
    with pytest.raises(InputError, match=message):
        LoraConfig(targets=TARGETS, trained=(trained,)).trainable(paths, frozenset(frozen))


def test_a_target_that_matches_nothing_is_refused_with_what_there_is():
    with pytest.raises(
        InputError, match=r"no linear layer matches \['blocks/query'\].*blocks/down, blocks/up, first/0"
    ):
        build(LoraConfig(targets=("blocks/up", "blocks/query")))


@pytest.mark.parametrize(
    "wrong",
    [{"rank": 0}, {"alpha": 0.0}, {"alpha": float("nan")}, {"targets": ()}, {"targets": ("[",)}, {"trained": ("(",)}],
)
def test_an_adapter_that_cannot_be_is_refused(wrong):
    with pytest.raises(InputError, match="lora"):
        LoraConfig(**({"targets": TARGETS} | wrong))
