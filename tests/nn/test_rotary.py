"""Rotations against the functions of transformers that released models are run with."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import relative_error
from vla_jax.nn.rotary import Rotation, axial_rotation, multimodal_rotation, rotate, text_rotation, with_still_prefix

torch = pytest.importorskip("torch")

HEAD_WIDTH, THETA = 12, 1000.0


def vectors(length: int) -> np.ndarray:
    return np.random.default_rng(length).normal(size=(2, length, 3, HEAD_WIDTH)).astype(np.float32)


def their_rotated(x, cos, sin):
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    queries = torch.tensor(x).transpose(1, 2)
    return apply_rotary_pos_emb(queries, queries, cos, sin)[0].transpose(1, 2)


def test_text_rotation_is_llamas_at_positions_far_out_too():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    parameters = {"rope_type": "default", "rope_theta": THETA}
    config = LlamaConfig(hidden_size=3 * HEAD_WIDTH, num_attention_heads=3, rope_parameters=parameters)
    positions, x = np.array([[0, 1, 2, 3, 4], [7, 50, 51, 900, 4000]]), vectors(5)
    cos, sin = LlamaRotaryEmbedding(config)(torch.tensor(x), torch.tensor(positions))
    ours = text_rotation(jnp.asarray(positions), HEAD_WIDTH, THETA)

    assert np.abs(np.asarray(ours.cos) - cos.numpy()).max() <= 1e-6
    assert relative_error(rotate(jnp.asarray(x), ours), their_rotated(x, cos, sin)) <= 1e-6


def test_multimodal_rotation_is_qwen3_vls_and_its_blocked_twin_is_not():
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

    sections = (2, 2, 2)
    parameters = {"rope_type": "default", "rope_theta": THETA, "mrope_section": list(sections)}
    config = Qwen3VLTextConfig(
        hidden_size=3 * HEAD_WIDTH, num_attention_heads=3, head_dim=HEAD_WIDTH, rope_parameters=parameters
    )
    positions, x = np.random.default_rng(0).integers(0, 40, (3, 2, 6)), vectors(6)
    cos, sin = Qwen3VLTextRotaryEmbedding(config)(torch.tensor(x), torch.tensor(positions))
    ours = multimodal_rotation(jnp.asarray(positions), HEAD_WIDTH, THETA, sections)

    assert relative_error(rotate(jnp.asarray(x), ours), their_rotated(x, cos, sin)) <= 1e-6
    axis = np.repeat([0, 1, 2], sections)
    per_axis = [text_rotation(jnp.asarray(p), HEAD_WIDTH, THETA) for p in positions]
    both = np.concatenate([axis, axis])
    blocked = Rotation(*(jnp.choose(both, [getattr(r, name) for r in per_axis]) for name in ("cos", "sin")))
    assert relative_error(rotate(jnp.asarray(x), blocked), their_rotated(x, cos, sin)) > 1e-2


def test_axial_rotation_is_dinov3s_on_patches_alone():
    from transformers import DINOv3ViTConfig
    from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTRopePositionEmbedding, apply_rotary_pos_emb

    config = DINOv3ViTConfig(hidden_size=3 * HEAD_WIDTH, num_attention_heads=3, patch_size=8, rope_theta=THETA)
    cos, sin = DINOv3ViTRopePositionEmbedding(config).eval()(torch.zeros(1, 3, 40, 24))
    x = vectors(2 + 15)
    queries = torch.tensor(x).transpose(1, 2)
    expected = apply_rotary_pos_emb(queries, queries, cos, sin)[0].transpose(1, 2)

    turning = axial_rotation(5, 3, HEAD_WIDTH, THETA)
    assert relative_error(rotate(jnp.asarray(x), with_still_prefix(turning, 2)), expected) <= 1e-6
    swapped = axial_rotation(3, 5, HEAD_WIDTH, THETA)
    assert relative_error(rotate(jnp.asarray(x), with_still_prefix(swapped, 2)), expected) > 1e-2


def test_interleaved_pairs_are_not_these():
    x, rotation = vectors(5), text_rotation(jnp.arange(5)[None], HEAD_WIDTH, THETA)
    order = np.arange(HEAD_WIDTH).reshape(-1, 2).T.ravel()  # pairs of neighbours, brought half a head apart
    interleaved = rotate(jnp.asarray(x)[..., order], rotation)[..., np.argsort(order)]
    assert relative_error(interleaved, rotate(jnp.asarray(x), rotation)) > 1e-2


def test_half_precision_is_turned_in_float32():
    x, rotation = jnp.asarray(vectors(5)).astype(jnp.bfloat16), text_rotation(jnp.arange(5)[None], HEAD_WIDTH, THETA)
    turned = rotate(x, rotation)
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_array_equal(turned, rotate(x.astype(jnp.float32), rotation).astype(jnp.bfloat16))
