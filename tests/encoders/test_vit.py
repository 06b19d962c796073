"""The ViT core: sizes of the presets, order of tokens, what the truncated last block costs."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.encoders.clip import clip_b16, clip_b32, clip_l14, clip_tiny
from vla_jax.encoders.projected_vit import ProjectedVitConfig
from vla_jax.encoders.vit import VitConfig, vit_ti_half, vit_tiny
from vla_jax.nn.stack import Taps
from vla_jax.parameters import abstract, split
from vla_jax.types import InputError


def num_parameters(config, prefix: str = "") -> int:
    shapes = abstract(lambda: config.build(nnx.Rngs(0))).shapes()
    return sum(math.prod(shape.shape) for path, shape in shapes.items() if path.startswith(prefix))


def pictures(config: VitConfig, size: int = 2) -> jax.Array:
    shape = (size, config.image_size, config.image_size, 3)
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize(
    ("preset", "total", "vision", "text"),
    [
        (clip_b32, 151_277_313, 87_456_000, 63_165_952),
        (clip_b16, 149_620_737, 85_799_424, 63_165_952),
        (clip_l14, 427_616_513, 303_179_776, 123_060_480),
    ],
)
def test_parameters_of_the_clip_presets(preset, total, vision, text):
    assert num_parameters(preset()) == total
    assert num_parameters(preset(), "vision/") == vision
    assert num_parameters(preset(), "text/") == text


def test_parameters_of_half_a_vit_ti():
    assert num_parameters(vit_ti_half()) == 2_855_232


def test_feature_shapes_of_the_full_size_presets():
    for preset, patches, width in ((clip_b32, 49, 512), (clip_b16, 196, 512), (clip_l14, 256, 768)):
        structure = abstract(lambda preset=preset: preset().build(nnx.Rngs(0)))
        ids = jax.ShapeDtypeStruct((2, 16), jnp.int32)

        def features(parameters, images, ids, mask, structure=structure):
            clip = structure.merge(parameters)
            return clip.vision_attention(images), clip.text_tokens(ids, mask)

        images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.uint8)
        mask = jax.ShapeDtypeStruct((2, 16), jnp.bool)
        vision, text = jax.eval_shape(features, structure.shapes(), images, ids, mask)

        assert vision.shape == (2, patches, width)
        assert text.shape == (2, 16, width)


def test_every_parameter_names_its_axes():
    for config in (clip_tiny(), ProjectedVitConfig(vit=vit_tiny(), out_width=28)):
        structure = abstract(lambda config=config: config.build(nnx.Rngs(0)))
        for path, axes in structure.logical_axes().items():
            assert not axes or any(axes), path


def test_the_truncated_last_block_does_not_pay_for_its_perceptron():
    config = dataclasses.replace(vit_tiny(), num_layers=1, mlp_width=4096, remat="none")
    vit, images = config.build(nnx.Rngs(0)), pictures(config)

    full, truncated = (
        jax.jit(lambda vit, last=last: vit.hidden(images, last_attention=last)).lower(vit).compile().cost_analysis()
        for last in (None, "qk")
    )

    perceptron = 2 * 2 * config.width * config.mlp_width * len(images) * (config.grid_size**2 + 1)
    assert full["flops"] - truncated["flops"] >= perceptron


def test_attention_output_is_what_the_residual_and_the_perceptron_leave():
    """X_attn = X_out - FFN - X, the FFN being that of X + X_attn."""
    config = vit_tiny()
    vit, images = config.build(nnx.Rngs(0)), pictures(config)
    x_out, taps, _ = vit.hidden(images, taps=Taps((config.num_layers - 2,)))
    x_attn = vit.hidden(images, last_attention="qk").tokens
    block = vit.stack.block(config.num_layers - 1)

    x_sum = taps[0] + x_attn

    np.testing.assert_allclose(x_sum + block.mlp(block.mlp_norm(x_sum)), x_out, atol=1e-5)


def test_tokens_are_class_registers_patches():
    config = dataclasses.replace(vit_tiny(), num_registers=3)
    vit, images = config.build(nnx.Rngs(0)), pictures(config)
    embedded = vit.embed(images)

    assert embedded.shape == (2, 1 + 3 + 16, config.width)
    np.testing.assert_allclose(embedded[0, 0], vit.class_token[...] + vit.positions[...][0], atol=1e-6)
    np.testing.assert_array_equal(embedded[0, 1:4], vit.registers[...])
    grid = vit(images, taps=Taps((1, 0)))
    assert grid.prefix.shape == (2, 4, config.width)
    assert grid.tokens.shape == (2, 16, config.width)
    assert grid.layers.shape == (2, 2, 16, config.width)
    assert (grid.rows, grid.columns) == (4, 4)


def test_taps_come_in_the_order_asked_for():
    config = vit_tiny()
    vit, images = config.build(nnx.Rngs(0)), pictures(config)
    forward, backward = vit(images, taps=Taps((0, 1))).layers, vit(images, taps=Taps((1, 0))).layers

    np.testing.assert_array_equal(forward, backward[::-1])
    assert np.abs(forward[0] - forward[1]).max() > 1e-3


def test_patches_are_row_major():
    config = vit_tiny()
    vit, images = config.build(nnx.Rngs(0)), pictures(config, 1)
    changed = images.at[0, 8:16, 24:32].set(255 - images[0, 8:16, 24:32])

    difference = np.abs(vit.patches(images) - vit.patches(changed)).max(axis=(0, 2))

    assert np.flatnonzero(difference > 1e-6).tolist() == [1 * 4 + 3]


def test_pictures_are_normalised_with_the_encoders_mean_and_std():
    config = dataclasses.replace(vit_tiny(), mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3, patch_bias=False)
    vit = config.build(nnx.Rngs(0))
    ones = jnp.ones((1, 32, 32, 3), jnp.uint8)

    expected = vit.patches.kernel[...].sum(axis=(0, 1, 2))

    np.testing.assert_allclose(vit.patches(ones)[0, 0], expected, atol=1e-5)


def test_bfloat16_parameters_give_bfloat16_features_close_to_float32():
    config = clip_tiny()
    structure, parameters = split(config.build(nnx.Rngs(0)))
    images = pictures(config.vision)
    exact = structure.merge(parameters).vision_attention(images)
    half = structure.merge({path: array.astype(jnp.bfloat16) for path, array in parameters.items()})

    features = half.vision_attention(images)

    assert features.dtype == jnp.bfloat16
    assert np.abs(features.astype(jnp.float32) - exact).max() < 0.05


def test_text_shorter_than_the_position_table_is_a_prefix_of_the_longer():
    clip = clip_tiny().build(nnx.Rngs(0))
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 512, (2, 77)), jnp.int32)
    mask = jnp.ones((2, 77), bool)

    np.testing.assert_allclose(
        clip.text_tokens(ids[:, :16], mask[:, :16]), clip.text_tokens(ids, mask)[:, :16], atol=1e-5
    )


def test_padding_never_reaches_valid_text_tokens():
    clip = clip_tiny().build(nnx.Rngs(0))
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 512, (2, 16)), jnp.int32)
    mask = jnp.arange(16)[None] < jnp.array([[5], [16]])
    other = jnp.where(mask, ids, 7)

    features, changed = clip.text_tokens(ids, mask), clip.text_tokens(other, mask)

    np.testing.assert_array_equal(features[mask], changed[mask])
    assert not np.array_equal(features, changed)
    np.testing.assert_allclose(jnp.linalg.norm(features, axis=-1), 1.0, atol=1e-5)


def test_a_token_outside_the_vocabulary_is_loud():
    clip = clip_tiny(vocab_size=300).build(nnx.Rngs(0))
    ids = jnp.full((1, 4), 300, jnp.int32)
    assert jnp.isnan(clip.text_tokens(ids, jnp.ones((1, 4), bool))).all()


def test_bad_sizes_are_input_errors():
    with pytest.raises(InputError, match=r"image_size=30"):
        vit_tiny(image_size=30)
    clip = clip_tiny().build(nnx.Rngs(0))
    with pytest.raises(InputError, match="expects 32 x 32"):
        clip.vision_attention(jnp.zeros((1, 40, 40, 3), jnp.uint8))
    with pytest.raises(InputError, match="text_length=78"):
        clip.text_tokens(jnp.zeros((1, 78), jnp.int32), jnp.ones((1, 78), bool))
    with pytest.raises(InputError, match=r"\[2\]"):
        clip.vision.hidden(jnp.zeros((1, 32, 32, 3), jnp.uint8), last_attention="qk", taps=Taps((1, 2)))
