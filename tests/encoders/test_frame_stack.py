"""Several frames through a released patch embedding: the inflated kernel, parametrised otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx

from vla_jax.encoders.frame_stack import DepthConfig, FrameStackConfig
from vla_jax.encoders.vit import VitConfig
from vla_jax.types import InputError

VIT = VitConfig(width=10, num_layers=1, num_heads=2, mlp_width=12, patch_size=4, image_size=8)


@pytest.fixture(scope="module")
def vit():
    return VIT.build(nnx.Rngs(0))


@pytest.fixture(scope="module")
def frames():
    return jax.random.randint(jax.random.key(0), (2, 3, 8, 8, 3), 0, 256).astype(jnp.uint8)


def build(**changes):
    return FrameStackConfig(num_frames=3, **changes).build(VIT, nnx.Rngs(0))


def every(frames):
    return jnp.ones(frames.shape[:2], bool)


def test_it_begins_as_the_mean_of_the_frames_and_exact_on_stills(vit, frames):
    stack = build()
    mean = jnp.mean(jnp.stack([vit.patches(frames[:, f]) for f in range(3)]), axis=0)
    np.testing.assert_allclose(stack(vit.patches, frames, every(frames)), mean, atol=1e-5)
    still = jnp.broadcast_to(frames[:, -1:], frames.shape)
    stack.deviations[...] = jax.random.normal(jax.random.key(1), stack.deviations.shape)
    np.testing.assert_allclose(stack(vit.patches, still, every(frames)), vit.patches(frames[:, -1]), atol=1e-5)


def test_it_is_the_inflated_convolution(vit, frames):
    """With K_f = W / 3 + D_f of the earlier frames, and of the last W less those: one kernel over nine channels."""
    stack = build()
    deviations = jax.random.normal(jax.random.key(1), stack.deviations.shape)
    stack.deviations[...] = deviations
    released = vit.patches.kernel[...]
    earlier = released / 3 + deviations
    inflated = jnp.concatenate([earlier, (released - earlier.sum(0))[None]])
    pixels = vit.patches.normalize(frames)
    cut = rearrange(pixels, "b f (r y) (c x) k -> b (r c) (f y x k)", y=4, x=4)
    expected = cut @ inflated.reshape(-1, 10) + vit.patches.bias[...]
    np.testing.assert_allclose(stack(vit.patches, frames, every(frames)), expected, atol=1e-4)
    assert deviations.size + released.size == inflated.size


def test_a_missing_frame_is_as_the_last(vit, frames):
    stack = build()
    stack.deviations[...] = jax.random.normal(jax.random.key(1), stack.deviations.shape)
    mask = every(frames).at[:, 0].set(False)
    filled = frames.at[:, 0].set(frames[:, -1])
    expected = stack(vit.patches, filled, every(frames))
    np.testing.assert_allclose(stack(vit.patches, frames, mask), expected, atol=1e-5)


def test_depth_joins_with_weights_of_zero_and_is_cut_off_where_it_is_far(vit, frames):
    stack, depths = build(depth=DepthConfig(max_metres=2.0)), jnp.full((2, 3, 8, 8), 1.5)
    without = stack(vit.patches, frames, every(frames))
    np.testing.assert_array_equal(stack(vit.patches, frames, every(frames), depths), without)
    stack.depth[...] = jax.random.normal(jax.random.key(2), stack.depth.shape)
    near, far, farther = (
        stack(vit.patches, frames, every(frames), jnp.full_like(depths, metres)) for metres in (1.0, 2.0, 9.0)
    )
    np.testing.assert_array_equal(far, farther)
    np.testing.assert_allclose(far - without, 2 * (near - without), rtol=1e-3, atol=1e-4)
    nothing = jnp.zeros_like(every(frames))
    alone = stack(vit.patches, frames, nothing, depths)
    np.testing.assert_allclose(alone, vit.patches(frames[:, -1]), atol=1e-5)


def test_an_encoder_reads_what_is_embedded_in_the_place_of_its_own(vit, frames):
    own = vit(frames[:, -1]).tokens
    np.testing.assert_allclose(vit(frames[:, -1], embedded=vit.patches(frames[:, -1])).tokens, own, atol=1e-6)
    other = vit(frames[:, -1], embedded=build()(vit.patches, frames, every(frames))).tokens
    assert np.abs(other - own).max() > 1e-3


def test_depth_without_a_range_is_refused():
    with pytest.raises(InputError, match="max_metres=0"):
        DepthConfig(max_metres=0.0)
