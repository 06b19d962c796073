"""A tiny random Qwen3-VL of transformers and ours with the same weights, and pictures as both read them."""

import json
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import torch
from einops import rearrange

from tests.encoders.torch_pictures import pixels
from tests.parity import ours_from, randomize
from vla_jax.vlms import qwen3_vl
from vla_jax.vlms.qwen3_vl import Qwen3Vl, Qwen3VlConfig

FAMILY = "qwen3_vl"
CONFIG = qwen3_vl.tiny()
PATCH, MERGE, FRAMES = CONFIG.vision.vit.patch_size, CONFIG.vision.merge_size, CONFIG.vision.vit.num_frames
HALF = (0.5, 0.5, 0.5)


class Twins(NamedTuple):
    folder: Path
    theirs: torch.nn.Module
    ours: Qwen3Vl


def build_theirs(config: Qwen3VlConfig = CONFIG):
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    settings = Qwen3VLConfig(**config.settings(), attn_implementation="eager")
    return Qwen3VLForConditionalGeneration(settings)


def build_twins(folder: Path, config: Qwen3VlConfig = CONFIG) -> Twins:
    theirs = randomize(build_theirs(config))
    theirs.save_pretrained(folder)
    return Twins(folder, theirs, ours_from(folder, FAMILY, config))


def config_on_disk(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def their_patches(images) -> tuple[torch.Tensor, torch.Tensor]:
    """What their processor makes of stills: patches of repeated frames by merge window, and each picture's grid."""
    batch, height, width = images.shape[:3]
    repeated = np.repeat(pixels(images, HALF, HALF).numpy()[:, None], FRAMES, axis=1)
    pattern = "b t c (r i y) (k j x) -> (b r k i j) (c t y x)"
    patches = rearrange(repeated, pattern, i=MERGE, j=MERGE, y=PATCH, x=PATCH)
    grid = torch.tensor([[1, height // PATCH, width // PATCH]] * batch)
    return torch.tensor(patches), grid


def by_window(tokens, columns: int):
    """Row-major patches in their order, all pictures one after another."""
    return rearrange(np.asarray(tokens), "b (r i k j) d -> (b r k i j) d", i=MERGE, j=MERGE, k=columns // MERGE)


def blocked_rotation(positions, head_width, theta, sections):
    """Qwen2-VL's M-RoPE: each axis has a run of frequencies."""
    from vla_jax.nn.rotary import frequencies, rotation

    axis = np.repeat(np.arange(3), sections)
    angles = positions.astype(jnp.float32)[..., None] * frequencies(head_width, theta)
    return rotation(jnp.take_along_axis(angles, jnp.asarray(axis)[None, None, None], axis=0)[0])


def rotate_neighbours(x, rotation):
    """GPT-J's layout."""
    cos, sin = (jnp.repeat(angle[..., :, None, : x.shape[-1] // 2], 2, axis=-1) for angle in rotation)
    turned = jnp.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
    return x * cos + turned * sin
