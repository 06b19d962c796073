"""Each kernel of attention against float32 softmax written out, forward and backward, and which kernel is chosen when.

Splash is interpreted on the CPU. cuDNN's cannot run here: that it is called, with what, and that it lowers for a GPU.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from vla_jax.nn import attention_kernels, masks, splash
from vla_jax.nn.attention import attend
from vla_jax.nn.attention_kernels import AttentionKernels, Call, chosen
from vla_jax.types import InputError, SelfMask

SPLASH = AttentionKernels(choice="splash", platform="cpu")
BAR = 2e-5


def prefix(valid, count: int) -> SelfMask:
    """The first positions see one another, those behind them are causal."""
    return SelfMask(valid, tuple(max(count, place + 1) for place in range(valid.shape[1])))


MASKS = {
    "none": lambda valid: None,
    "causal": masks.causal_over_valid,
    "all": masks.all_over_valid,
    "prefix": lambda valid: prefix(valid, 70),
    "actions at the end": lambda valid: masks.causal_over_valid(valid, 30),
}
IN_TEST_ALL = [pytest.param(name, marks=pytest.mark.all_presets) for name in ("none", "all", "actions at the end")]
LENGTH = 200


def inputs(*, heads=(4, 2), width=64, lengths=(LENGTH, LENGTH), batch=3):
    (h, g), (q, k) = heads, lengths
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(batch, q, h, width), (batch, k, g, width), (batch, k, g, width)]
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes)]


PLACES = np.arange(LENGTH)
VALID = jnp.stack([PLACES >= 20, (PLACES < 90) | (PLACES >= 110), PLACES < 0])
"""Padding on the left; in the middle; nothing but padding."""


def reference(query, key, value, mask, scale=None, soft_cap=None):
    """Written out, in float32. Args: mask: [b, q, k]."""
    groups = query.shape[2] // key.shape[2]
    key, value = (jnp.repeat(array, groups, axis=2) for array in (key, value))
    scores = jnp.einsum("bqhf,bkhf->bhqk", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if soft_cap is None else soft_cap * jnp.tanh(scores / soft_cap)
    return jnp.einsum("bhqk,bkhf->bqhf", jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf), axis=-1), value)


@pytest.mark.parametrize("soft_cap", [None, 2.0])
def test_a_head_at_a_time_gives_what_all_do(soft_cap):
    """As `of_inference` has it on a CPU, for grouped queries and memories of another length."""
    query, key, value = inputs(lengths=(LENGTH, 130))
    everything = jnp.ones((3, LENGTH, 130), bool)
    found = AttentionKernels(platform="cpu", rows=2).around(lambda *a: attend(*a, soft_cap=soft_cap))
    program = str(jax.make_jaxpr(found)(query, key, value))
    assert "scan" in program, "heads go one by one"
    np.testing.assert_allclose(
        jax.jit(found)(query, key, value), reference(query, key, value, everything, soft_cap=soft_cap), atol=BAR
    )


def value_and_gradients(function, arrays, read):
    """The outputs that are read, and what a random sum over them says of query, key and value."""

    def total(arrays):
        out = function(*arrays) * read[:, :, None, None]
        return (out * jax.random.normal(jax.random.key(9), out.shape)).sum(), out

    gradients, out = jax.grad(total, has_aux=True)(arrays)
    return [out, *gradients]


def differences(ours, theirs) -> list[float]:
    """Largest, of the output and each gradient, relative to the largest that is expected."""
    return [float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in zip(ours, theirs, strict=True)]


@functools.partial(jax.jit, static_argnames="soft_cap")
def _expected(arrays, mask, read, scale, soft_cap):
    function = functools.partial(reference, mask=mask, scale=scale, soft_cap=soft_cap)
    return value_and_gradients(function, arrays, read)


def expected(mask, read, scale=64**-0.5, soft_cap=None):
    """Of `inputs()`."""
    return _expected(inputs(), mask, read, scale, soft_cap)


@functools.cache
def found(name: str, soft_cap: float | None = None, *, kernel: str):
    """Of `inputs()`, the mask as it was given, and the rows that are read."""
    mask = MASKS[name](VALID)
    read = jnp.ones_like(VALID) if mask is None else VALID
    kernels = AttentionKernels(choice=kernel, platform="cpu")
    function = kernels.around(lambda *arrays: attend(*arrays, mask, soft_cap=soft_cap))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splash, "LARGEST_BLOCK", 128)  # two blocks each way, padded from 200 to 256
        values = jax.jit(functools.partial(value_and_gradients, function))(inputs(), read)
    return values, jnp.ones((3, LENGTH, LENGTH), bool) if mask is None else mask.dense(), read


@pytest.mark.parametrize("name", ["causal", "prefix", *IN_TEST_ALL])
def test_splash_is_the_reference(name):
    values, mask, read = found(name, kernel="splash")
    assert max(differences(values, expected(mask, read))) < BAR


@pytest.mark.parametrize("soft_cap", [None, 3.0])
@pytest.mark.parametrize("name", ["prefix", *IN_TEST_ALL])
def test_xla_is_the_reference(name, soft_cap):
    values, mask, read = found(name, soft_cap, kernel="xla")
    assert max(differences(values, expected(mask, read, soft_cap=soft_cap))) < BAR


def test_a_mask_that_is_transposed_or_a_scale_that_is_missing_fails():
    values, mask, read = found("causal", kernel="splash")
    # The output and all gradients, so that none of them is compared in vain.
    assert min(differences(values, expected(mask.swapaxes(1, 2), read))) > 1e-2
    assert min(differences(values, expected(mask, read, scale=1.0))) > 1e-2


def test_a_row_of_nothing_but_padding_gives_no_gradient_and_no_nan():
    values, _, read = found("causal", kernel="splash")
    assert not read[2].any()
    for array in values:
        assert jnp.isfinite(array).all()
        assert not array[2].any()
        assert array[0].any()


def test_splash_takes_any_head_width_cross_attention_and_a_soft_cap():
    arrays = inputs(heads=(2, 2), width=72, lengths=(40, 150), batch=1)
    arrays[0] = 3 * arrays[0]
    read = jnp.ones((1, 40), bool)
    values = jax.jit(functools.partial(value_and_gradients, by_splash(soft_cap=3.0)))(arrays, read)

    @functools.partial(jax.jit, static_argnums=0)
    def expected(soft_cap):
        function = functools.partial(reference, mask=jnp.ones((1, 40, 150), bool), soft_cap=soft_cap)
        return value_and_gradients(function, arrays, read)

    assert max(differences(values, expected(3.0))) < BAR
    assert min(differences(values, expected(30.0))) > 1e-2, "the cap bites"


def by_splash(mask=None, soft_cap=None):
    return SPLASH.around(lambda *arrays: attend(*arrays, mask, soft_cap=soft_cap))


LONG = Call(num_queries=1024, num_keys=1024, head_width=64, dtype="bfloat16", mask="self")
DECODING = LONG._replace(num_queries=1, mask="dense")


@pytest.mark.parametrize(
    ("choice", "platform", "call", "expected"),
    [
        ("auto", "cpu", LONG, "xla"),
        ("auto", "tpu", LONG, "splash"),
        ("auto", "tpu", LONG._replace(mask="none", dtype="float32", soft_cap=True), "splash"),
        ("auto", "tpu", LONG._replace(mask="dense"), "xla"),
        ("auto", "tpu", LONG._replace(bias=True), "xla"),
        ("auto", "tpu", LONG._replace(num_queries=300, num_keys=300), "xla"),
        ("auto", "tpu", DECODING, "xla"),
        ("splash", "tpu", LONG._replace(num_queries=300, num_keys=300), "splash"),
        ("splash", "tpu", DECODING, "xla"),
        ("xla", "tpu", LONG, "xla"),
        ("auto", "gpu", LONG, "cudnn"),
        ("auto", "gpu", LONG._replace(mask="dense", dtype="float16"), "cudnn"),
        ("auto", "gpu", LONG._replace(dtype="float32"), "xla"),
        ("auto", "gpu", LONG._replace(soft_cap=True), "xla"),
        ("auto", "gpu", LONG._replace(bias=True), "xla"),
        ("auto", "gpu", LONG._replace(head_width=256), "xla"),
        ("auto", "gpu", LONG._replace(head_width=20), "xla"),
        ("auto", "gpu", DECODING, "xla"),
        ("cudnn", "gpu", LONG._replace(num_keys=40), "cudnn"),
        ("xla", "gpu", LONG, "xla"),
    ],
)
def test_the_choice_follows_platform_dtype_lengths_and_mask(choice, platform, call, expected, caplog):
    assert chosen(AttentionKernels(choice=choice, platform=platform), call) == expected


def test_nothing_said_is_xla():
    assert chosen(None, LONG) == "xla"


def test_a_fallback_says_why_once(caplog):
    call = LONG._replace(num_keys=999, mask="dense")
    with caplog.at_level("INFO", logger="vla_jax.nn.attention_kernels"):
        for _ in range(3):
            chosen(AttentionKernels(platform="tpu"), call)
    assert len(caplog.messages) == 1
    assert "its mask is booleans" in caplog.messages[0]


@pytest.mark.parametrize(("choice", "platform"), [("cudnn", "cpu"), ("cudnn", "tpu"), ("splash", "gpu")])
def test_a_kernel_of_another_platform_is_refused(choice, platform):
    with pytest.raises(InputError, match="use 'auto'"):
        AttentionKernels(choice=choice, platform=platform)


def test_kernels_hold_while_a_function_is_traced_and_no_longer():
    arrays = inputs(lengths=(40, 40))
    inside = str(jax.make_jaxpr(by_splash())(*arrays))
    outside = str(jax.make_jaxpr(lambda *arrays: attend(*arrays))(*arrays))
    assert "pallas_call" in inside
    assert "pallas_call" not in outside


def lowered_for_a_gpu(mask, monkeypatch, dtype=jnp.bfloat16) -> str:
    """Forward and backward. The version of cuDNN that is asked for is not installed here."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    arrays = inputs(lengths=(201, 201), batch=2)
    kernels = AttentionKernels(platform="gpu")

    @jax.jit
    @kernels.around
    def gradients(*arrays):
        return jax.grad(lambda *arrays: attend(*arrays, mask).astype(jnp.float32).sum(), argnums=(0, 1, 2))(*arrays)

    arrays = [array.astype(dtype) for array in arrays]
    return gradients.trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("name", ["none", "causal"])
def test_cudnn_is_lowered_for_a_gpu(name, monkeypatch):
    """A mask is given as a bias; lengths are made even, and where there is no mask the true one is said beside."""
    valid = jnp.ones((2, 201), bool)
    text = lowered_for_a_gpu(MASKS[name](valid), monkeypatch)
    assert "__cudnn$fmhaSoftmaxBackward" in text or "__cudnn$fmhaScaleBiasSoftmaxBackward" in text
    assert ("fmhaScaleBiasSoftmax" in text) == (name == "causal")
    assert "2x202x4x64" in text
    assert "cudnn" not in lowered_for_a_gpu(MASKS[name](valid), monkeypatch, jnp.float32)


@pytest.mark.parametrize("name", ["none", "prefix"])
def test_what_cudnn_is_given_means_the_reference(name, monkeypatch):
    """Odd lengths made even: what is asked of it, computed by XLA."""
    right = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *a, **k: right(*a, **k | {"implementation": "xla"}))
    arrays = inputs(width=16, lengths=(21, 21), batch=2)
    valid = jnp.arange(21) >= jnp.array([[0], [4]])
    mask = jnp.ones((2, 21, 21), bool) if name == "none" else prefix(valid, 5).dense()
    given = None if name == "none" else mask
    values = value_and_gradients(lambda *a: attention_kernels.cudnn(*a, given), arrays, valid)
    theirs = value_and_gradients(functools.partial(reference, mask=mask), arrays, valid)
    assert max(differences(values, theirs)) < BAR
