"""Qwen3-VL's vision tower against transformers, through the importer, with wrong twins that must fail."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx

from tests.encoders.torch_pictures import heads, outputs_of, pictures
from tests.parity import BAR, ours_from, relative_error
from tests.vlms.qwen3_vl_twins import CONFIG, FAMILY, Twins, build_twins, by_window, rotate_neighbours, their_patches
from vla_jax.encoders import vit as vit_module
from vla_jax.nn import attention as attention_module
from vla_jax.nn.stack import Taps
from vla_jax.types import InputError

torch = pytest.importorskip("torch")

FAR = 100 * BAR
DEPTH = CONFIG.vision.vit.num_layers
ROWS, COLUMNS = 4, 8
IMAGES = pictures(ROWS * 4, COLUMNS * 4)  # another grid than the table's 6 x 6: positions are resampled
EVERY = Taps(range(DEPTH), range(DEPTH))


@pytest.fixture(scope="module")
def twins(tmp_path_factory) -> Twins:
    return build_twins(tmp_path_factory.mktemp("qwen3_vl"))


@pytest.fixture(scope="module")
def their_output(twins):
    patches, grid = their_patches(IMAGES)
    with torch.no_grad():
        return twins.theirs.model.visual(patches, grid_thw=grid)


@pytest.fixture(scope="module")
def found(twins):
    return jax.jit(lambda images: twins.ours.vision(images, taps=EVERY))(IMAGES)


def errors(vision, output) -> tuple[float, float]:
    """Of merged tokens and of DeepStack's."""
    return errors_of(jax.jit(lambda images: vision(images)[:2])(IMAGES), output)


def errors_of(found, output) -> tuple[float, float]:
    merged, deepstack = found[0].tokens, found[1]
    expected = torch.stack(list(output.deepstack_features))
    of_tokens = relative_error(merged.reshape(-1, merged.shape[-1]), output.pooler_output)
    return of_tokens, relative_error(deepstack.reshape(expected.shape), expected)


def vision_with(twins: Twins, **vit):
    """The same weights in a tower whose ViT differs from the one that they belong to."""
    vision = dataclasses.replace(CONFIG.vision, vit=dataclasses.replace(CONFIG.vision.vit, **vit))
    config = dataclasses.replace(CONFIG, vision=vision, language=None)
    return ours_from(twins.folder, FAMILY, config, checked=False).vision


def test_merged_tokens_and_every_level_of_deepstack(found, their_output):
    assert max(errors_of(found, their_output)) <= BAR
    assert (found.merged.rows, found.merged.columns) == (ROWS // 2, COLUMNS // 2)


def test_every_block_and_its_projections(twins, found):
    visual = twins.theirs.model.visual
    patches, grid = their_patches(IMAGES)
    blocks = list(visual.blocks)
    outputs = outputs_of([*blocks, *(block.attn.qkv for block in blocks)], lambda: visual(patches, grid_thw=grid))
    for layer in range(DEPTH):
        assert relative_error(by_window(found.patches.layers[layer], COLUMNS), outputs[layer]) <= BAR
        value = heads(outputs[DEPTH + layer].chunk(3, dim=-1)[2], CONFIG.vision.vit.num_heads)
        ours = found.patches.projections.value[layer]
        assert relative_error(by_window(ours.reshape(*ours.shape[:2], -1), COLUMNS), value.flatten(1)) <= BAR


def test_the_table_s_own_grid_is_not_resampled(twins):
    images = pictures(24, 24, batch=1)
    patches, grid = their_patches(images)
    with torch.no_grad():
        expected = twins.theirs.model.visual(patches, grid_thw=grid).pooler_output
    assert relative_error(twins.ours.vision(images).merged.tokens[0], expected) <= BAR


def test_pictures_that_do_not_merge_evenly_are_refused(twins):
    with pytest.raises(InputError, match=r"16 x 20 .*multiples of 8"):
        twins.ours.vision(pictures(16, 20))


# ---- wrong twins: each must be far over the bar


def test_positions_resampled_without_aligned_corners_fail(twins, their_output):
    positions = dataclasses.replace(CONFIG.vision.vit.positions, interpolation="bilinear")
    assert min(errors(vision_with(twins, positions=positions), their_output)) > FAR


def test_the_wrong_theta_fails(twins, their_output):
    positions = dataclasses.replace(CONFIG.vision.vit.positions, theta=100.0)
    assert min(errors(vision_with(twins, positions=positions), their_output)) > FAR


def test_rotation_by_neighbours_fails(twins, their_output, monkeypatch):
    monkeypatch.setattr(attention_module, "rotate", rotate_neighbours)
    assert min(errors(twins.ours.vision, their_output)) > FAR


def test_columns_before_rows_in_the_rotation_fail(twins, their_output, monkeypatch):
    right = vit_module.grid_rotation

    def transposed(rows, columns, head_width, theta):
        turned = right(columns, rows, head_width, theta)
        return type(turned)(*(rearrange(x, "(k r) f -> (r k) f", r=rows) for x in turned))

    monkeypatch.setattr(vit_module, "grid_rotation", transposed)
    assert min(errors(twins.ours.vision, their_output)) > FAR


@pytest.mark.parametrize("which", ["blocks", "mergers"])
def test_the_other_gelu_fails(twins, which):
    """Exact in the blocks, by tanh in the mergers: told apart in the tail, where the hidden units are brought here."""
    theirs, ours = copy.deepcopy(twins.theirs.model.visual), nnx.clone(twins.ours.vision)
    wrong = "gelu" if which == "blocks" else "gelu_tanh"
    if which == "blocks":
        their_mlps, our_mlps = [block.mlp for block in theirs.blocks], [ours.vit.stack.blocks.mlp]
    else:
        their_mlps, our_mlps = [theirs.merger, *theirs.deepstack_merger_list], [ours.merger, ours.deepstack.mlp]
    for mlp in their_mlps:
        with torch.no_grad():
            mlp.linear_fc1.weight.mul_(0.02)
            mlp.linear_fc1.bias.fill_(-2.2)
            mlp.linear_fc2.weight.mul_(16)
    for mlp in our_mlps:
        mlp.up.kernel[...] = mlp.up.kernel[...] * 0.02
        mlp.up.bias[...] = jnp.full_like(mlp.up.bias[...], -2.2)
        mlp.down.kernel[...] = mlp.down.kernel[...] * 16
    patches, grid = their_patches(IMAGES)
    with torch.no_grad():
        expected = theirs(patches, grid_thw=grid)
    assert max(errors(ours, expected)) <= BAR

    for mlp in our_mlps:
        mlp.activation = wrong
    assert min(errors(ours, expected)) > FAR


def test_deepstack_taken_one_block_off_fails(twins, their_output):
    wrong = nnx.clone(twins.ours.vision)
    wrong.config = dataclasses.replace(CONFIG.vision, deepstack=tuple(level + 1 for level in CONFIG.vision.deepstack))
    of_tokens, of_deepstack = errors(wrong, their_output)
    assert of_tokens <= BAR
    assert of_deepstack > FAR


def test_norms_on_the_other_side_of_the_merge_fail(twins, found, their_output):
    vision, raw = twins.ours.vision, found.patches.layers

    def normal(x):
        x = x - x.mean(axis=-1, keepdims=True)
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)

    def windows(patches):
        return rearrange(np.asarray(patches), "b (r i k j) d -> b (r k) (i j) d", r=ROWS // 2, i=2, j=2)

    after = windows(raw[-1]).reshape(2, -1, 4 * 24)
    scale, bias = (np.tile(p[...], 4) for p in (vision.vit.final_norm.scale, vision.vit.final_norm.bias))
    merged = vision.merger(jnp.asarray(normal(after) * scale + bias))
    before = [normal(windows(raw[level])).reshape(2, -1, 4 * 24) for level in CONFIG.vision.deepstack]
    norms, mlp = vision.deepstack.norm, vision.deepstack.mlp
    deepstack = [
        jax.tree.map(lambda a, i=i: a[i], mlp)(x * norms.scale[...][i] + norms.bias[...][i])
        for i, x in enumerate(before)
    ]
    assert relative_error(merged.reshape(-1, merged.shape[-1]), their_output.pooler_output) > FAR
    for level, expected in zip(deepstack, their_output.deepstack_features, strict=True):
        assert relative_error(level.reshape(expected.shape), expected) > FAR


def test_frames_of_unequal_kernels_are_both_read(twins, their_output):
    wrong = nnx.clone(twins.ours.vision)
    kernel = wrong.vit.patches.kernel[...]
    wrong.vit.patches.kernel[...] = jnp.stack([kernel[0], kernel[0]])
    assert min(errors(wrong, their_output)) > FAR
