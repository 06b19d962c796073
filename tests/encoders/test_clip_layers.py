"""CLIP's layers against hooks on transformers' CLIPModel: outputs, queries, keys and values of both halves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.encoders.torch_pictures import assert_equal_inside, everything, heads, outputs_of, pictures, pixels
from tests.parity import BAR, assert_round_trip, ours_from, randomize, relative_error
from vla_jax.encoders.clip import CLIP_MEAN, CLIP_STD, clip_tiny
from vla_jax.nn.stack import Taps

torch = pytest.importorskip("torch")

CONFIG = clip_tiny(vocab_size=99)
NAMES = ("q_proj", "k_proj", "v_proj")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(ours, theirs, folder)"""
    from transformers import CLIPConfig, CLIPModel

    settings = CONFIG.settings()
    special = {"bos_token_id": 97, "eos_token_id": 98, "pad_token_id": 98}
    theirs = CLIPModel(CLIPConfig(**settings | {"text_config": settings["text_config"] | special}))
    folder = tmp_path_factory.mktemp("clip")
    randomize(theirs).save_pretrained(folder)
    return ours_from(folder, "clip", CONFIG), theirs, folder


def projections_of(layers, num_heads, run):
    return [
        [heads(x, num_heads) for x in outputs_of([getattr(layer.self_attn, name) for layer in layers], run)]
        for name in NAMES
    ]


def test_layers_and_projections_of_pictures(both):
    ours, theirs, _ = both
    images, model = pictures(32, 32), theirs.vision_model

    def run():
        return model(pixel_values=pixels(images, CLIP_MEAN, CLIP_STD))

    grid, embedded = everything(ours.vision, images)
    states = outputs_of([model.pre_layrnorm, *model.encoder.layers], run)
    projections = projections_of(model.encoder.layers, CONFIG.vision.num_heads, run)
    assert_equal_inside(grid, embedded, states, projections)

    query, key, value = grid.projections
    assert relative_error(key, torch.stack(projections[1])) <= BAR
    assert relative_error(query, torch.stack(projections[1])) > 100 * BAR
    assert relative_error(value[::-1], torch.stack(projections[2])) > 100 * BAR


def test_layers_and_projections_of_texts(both):
    ours, theirs, _ = both
    model, depth = theirs.text_model, CONFIG.text.num_layers
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 97, (3, 7)), jnp.int32)
    mask = jnp.arange(7)[None] < jnp.array([[7], [5], [2]])

    def run():
        return model(input_ids=torch.tensor(np.asarray(ids)).long(), attention_mask=torch.tensor(np.asarray(mask)))

    found = jax.jit(lambda ids: ours.text.hidden(ids, mask, taps=Taps(range(depth), range(depth))))(ids)
    for layer, state in enumerate(outputs_of(model.encoder.layers, run)):
        assert relative_error(found.layers[layer], state) <= BAR
    for mine, expected in zip(
        found.projections, projections_of(model.encoder.layers, CONFIG.text.num_heads, run), strict=True
    ):
        assert relative_error(mine, torch.stack(expected)) <= BAR
    assert relative_error(found.layers[::-1][-1], outputs_of(model.encoder.layers, run)[-1]) > 100 * BAR


def test_every_tensor_goes_out_as_it_came(both):
    assert_round_trip(both[2], "clip", both[0])
