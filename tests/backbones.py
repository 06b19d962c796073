"""The tiny twin of every released model, and a run of it from its inputs to all that it gives."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vla_jax.encoders import clip, dinov2, dinov3, imagenet_vit, prismatic, sam, siglip
from vla_jax.language import gemma, generation, llama, qwen2, qwen3
from vla_jax.vlms import openvla, qwen3_vl

BATCH = 8


class Inputs(NamedTuple):
    """The batch axis leads in all of them."""

    images: Any
    ids: Any
    valid: Any


class Backbone(NamedTuple):
    config: Any
    inputs: Inputs
    run: Callable[[Any, Inputs], Any]
    """Of a model: a pytree of arrays."""


def inputs(height: int, width: int | None = None, *, length: int = 7) -> Inputs:
    """Ids are words of all tiny vocabularies; some rows end with padding."""
    generator, places = np.random.default_rng(0), np.arange(length)
    return Inputs(
        images=generator.integers(0, 256, (BATCH, height, width or height, 3), np.uint8),
        ids=generator.integers(0, 45, (BATCH, length), np.int32),
        valid=places < length - np.arange(BATCH)[:, None] % 3,
    )


def _vit(model, given):
    return model(given.images)


def _clip(model, given):
    vision = (model.vision_attention(given.images), model.vision_embedding(given.images))
    return *vision, model.text_embedding(given.ids, given.valid)


def _imagenet_vit(model, given):
    return model.pooled(given.images), model.logits(given.images)


def _siglip(model, given):
    return model.vision(given.images[:, :32]), model.logits(given.images, given.ids)


def _sam(model, given):
    corners = jnp.tile(jnp.array([3.0, 5.0, 20.0, 30.0], jnp.float32), (BATCH, 1, 1))
    asked = (
        sam.Prompts(points=corners.reshape(BATCH, 1, 2, 2), boxes=corners),
        sam.Prompts(masks=given.images[..., 0].astype(jnp.float32) / 99),
    )
    image = model.encode(given.images)
    return image, [model.masks(image, prompts) for prompts in asked]


def _decoder(model, given):
    """All that a prompt gives, then a step with the cache."""
    prompt = generation.text_prompt(model, given.ids, given.valid)
    prefix = generation.prefill(model, prompt, room=1)
    mask = jnp.pad(given.valid, ((0, 0), (0, 1)), constant_values=True)[:, None]
    rotation, word = model.rotation(prompt.next_position[:, None]), model.embed(given.ids[:, :1])
    tokens, cache = model.step(word, prefix.cache, slot=given.ids.shape[1], mask=mask, rotation=rotation)
    return prefix.last, tokens, model.logits(tokens), cache


def _openvla(model, given):
    prompt = model.prompt(given.ids, given.valid, model.picture_tokens(given.images))
    prefix = generation.prefill(model.language, prompt, room=1)
    return prefix.last, prefix.cache


def _qwen3_vl(model, given):
    """Six merged patches behind the first word, and two further tokens."""
    places = np.arange(given.ids.shape[1])
    ids = jnp.where((places > 0) & (places < 7), model.config.image_id, given.ids)
    read = model.inputs(ids, given.valid, [model.vision(given.images)]).followed_by(jnp.zeros((BATCH, 2, 20)))
    tokens = model.hidden(read, mask=None).tokens
    return tokens, model.logits(tokens[:, -1])


DECODERS = {"llama": llama, "qwen2": qwen2, "qwen3": qwen3, "gemma": gemma}
BACKBONES = {
    "clip": Backbone(clip.clip_tiny(), inputs(32), _clip),
    "dinov2": Backbone(dinov2.tiny(), inputs(56), _vit),
    "dinov2_giant": Backbone(dinov2.tiny(num_registers=3, gated_mlp=True), inputs(56), _vit),
    "dinov3": Backbone(dinov3.tiny(gated_mlp=True), inputs(40), _vit),
    "imagenet_vit": Backbone(imagenet_vit.tiny(pooled_width=12, num_classes=6), inputs(48), _imagenet_vit),
    "siglip": Backbone(siglip.tiny(), inputs(40), _siglip),
    "prismatic": Backbone(prismatic.tiny(), inputs(40), _vit),
    "sam": Backbone(sam.tiny(), inputs(40), _sam),
    **{name: Backbone(module.tiny(), inputs(1), _decoder) for name, module in DECODERS.items()},
    "openvla": Backbone(openvla.tiny(), inputs(40), _openvla),
    "qwen3_vl": Backbone(qwen3_vl.tiny(), inputs(16, 24, length=10), _qwen3_vl),
}
