"""CLIP against transformers' CLIPModel, through the importer, with wrong twins that must fail.

The random weights have unequal widths and no zero bias, so that a missed transpose or a swapped bias shows.
"""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.convert.load import load_pretrained
from vla_jax.convert.save import disk_arrays, save
from vla_jax.encoders import clip as clip_module
from vla_jax.encoders.clip import CLIP_MEAN, CLIP_STD, ClipConfig, clip_tiny
from vla_jax.nn.stack import Taps
from vla_jax.parameters import abstract
from vla_jax.policies.base import PretrainedPart

torch = pytest.importorskip("torch")

VOCAB, END = 99, 98
BAR = 1e-5
CONFIG = clip_tiny(vocab_size=VOCAB)


def relative_error(ours, theirs) -> float:
    """Largest difference, relative to the largest value."""
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@pytest.fixture(scope="module")
def theirs():
    from transformers import CLIPConfig, CLIPModel

    settings = CONFIG.settings()
    text = settings["text_config"] | {"bos_token_id": END - 1, "eos_token_id": END, "pad_token_id": END}
    model = CLIPModel(CLIPConfig(**settings | {"text_config": text}, attn_implementation="eager")).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name and name.endswith("weight")
            parameter.copy_(1 + 0.3 * noise if is_norm else 0.3 * noise)
    return model


def ours_from(model, folder, config: ClipConfig = CONFIG, *, checked: bool = True):
    """Our CLIP with their weights, through a saved folder. `checked=False`: config.json may disagree."""
    model.save_pretrained(folder)
    settings = config.settings() if checked else {}
    part = PretrainedPart(prefix="clip", family="clip", path=str(folder), frozen=True, settings=settings)
    structure = abstract(lambda: config.build(nnx.Rngs(0)))
    shapes = {f"clip/{path}": shape for path, shape in structure.shapes().items()}
    parameters = load_pretrained(part, shapes)
    return structure.merge({path.removeprefix("clip/"): array for path, array in parameters.items()})


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    return ours_from(theirs, tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def pixels(images):
    return torch.tensor(
        ((np.asarray(images) / 255.0 - CLIP_MEAN) / CLIP_STD).transpose(0, 3, 1, 2), dtype=torch.float32
    )


@pytest.fixture(scope="module")
def text() -> tuple[jax.Array, jax.Array]:
    lengths = np.array([[4], [16], [9]])
    mask = np.arange(16)[None] < lengths
    ids = np.random.default_rng(1).integers(0, END - 1, (3, 16), dtype=np.int32)
    return jnp.asarray(np.where(np.arange(16)[None] < lengths - 1, ids, END), jnp.int32), jnp.asarray(mask)


def attention_of_last_block(model, pixels, scores: str = "qk"):
    """X_attn by a hook; for q q the keys' projection is made that of the queries."""
    block = model.vision_model.encoder.layers[-1]
    if scores == "qq":
        model = copy.deepcopy(model)
        block = model.vision_model.encoder.layers[-1]
        block.self_attn.k_proj = block.self_attn.q_proj
    seen = []
    handle = block.self_attn.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    with torch.no_grad():
        model.vision_model(pixel_values=pixels)
    handle.remove()
    return seen[0]


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def their_patch_features(model, pixels, scores: str = "qk"):
    with torch.no_grad():
        attended = attention_of_last_block(model, pixels, scores)
        return unit(model.visual_projection(model.vision_model.post_layernorm(attended[:, 1:])))


def their_text_features(model, text):
    ids, mask = (torch.tensor(np.asarray(array)).long() for array in text)
    with torch.no_grad():
        states = model.text_model(input_ids=ids, attention_mask=mask).last_hidden_state
        return unit(model.text_projection(states))


def test_hidden_state_of_every_vision_block(ours, theirs, images, pixels):
    with torch.no_grad():
        expected = theirs.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
    depth = CONFIG.vision.num_layers

    last, taps, _ = ours.vision.hidden(images, taps=Taps(range(depth)))

    assert relative_error(ours.vision.embed(images), expected[0]) <= BAR
    for layer in range(depth):
        assert relative_error(taps[layer], expected[layer + 1]) <= BAR
    assert relative_error(last, expected[-1]) <= BAR


@pytest.mark.parametrize("scores", ["qk", "qq"])
def test_attention_output_of_the_last_block(ours, theirs, images, pixels, scores):
    expected = attention_of_last_block(theirs, pixels, scores)

    assert relative_error(ours.vision.hidden(images, last_attention=scores).tokens, expected) <= BAR
    assert relative_error(ours.vision_attention(images, scores), their_patch_features(theirs, pixels, scores)) <= BAR


def test_every_text_token_padding_included(ours, theirs, text):
    assert relative_error(ours.text_tokens(*text), their_text_features(theirs, text)) <= BAR


def test_pooled_embeddings(ours, theirs, images, pixels, text):
    ids, mask = (torch.tensor(np.asarray(array)).long() for array in text)
    with torch.no_grad():
        output = theirs(input_ids=ids, attention_mask=mask, pixel_values=pixels)

    assert relative_error(ours.vision_embedding(images), output.image_embeds) <= BAR
    assert relative_error(ours.text_embedding(*text), output.text_embeds) <= BAR


# ---- wrong twins: each must be far over the bar


def test_gelu_in_place_of_quick_gelu_fails(theirs, images, pixels, text, tmp_path):
    vision = dataclasses.replace(CONFIG.vision, activation="gelu")
    wrong = dataclasses.replace(CONFIG, vision=vision, text=dataclasses.replace(CONFIG.text, activation="gelu"))
    wrong = ours_from(theirs, tmp_path, wrong, checked=False)

    assert relative_error(wrong.vision_attention(images), their_patch_features(theirs, pixels)) > 100 * BAR
    assert relative_error(wrong.text_tokens(*text), their_text_features(theirs, text)) > 100 * BAR


def test_the_other_scores_fail(ours, theirs, images, pixels):
    assert relative_error(ours.vision_attention(images, "qq"), their_patch_features(theirs, pixels)) > 100 * BAR


def test_wrong_epsilon_fails_on_inputs_of_small_variance(theirs, images, pixels, text, tmp_path):
    small = copy.deepcopy(theirs)
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            if "embedding" in name:
                parameter.mul_(1e-3)
    right = ours_from(small, tmp_path / "right")
    vision = dataclasses.replace(CONFIG.vision, epsilon=1e-6)
    wrong = dataclasses.replace(CONFIG, vision=vision, text=dataclasses.replace(CONFIG.text, epsilon=1e-6))
    wrong = ours_from(small, tmp_path / "wrong", wrong, checked=False)

    for model, passes in ((right, True), (wrong, False)):
        assert (relative_error(model.vision_attention(images), their_patch_features(small, pixels)) <= BAR) is passes
        assert (relative_error(model.text_tokens(*text), their_text_features(small, text)) <= BAR) is passes


def test_text_without_a_causal_mask_fails(ours, theirs, text, monkeypatch):
    monkeypatch.setattr(clip_module.masks, "causal", lambda length: jnp.ones((length, length), bool))
    assert relative_error(ours.text_tokens(*text), their_text_features(theirs, text)) > 100 * BAR


def test_patches_flattened_column_first_fail(ours, theirs, images, pixels):
    wrong = nnx.clone(ours)
    wrong.vision.patches.kernel[...] = ours.vision.patches.kernel[...].swapaxes(0, 1)
    assert relative_error(wrong.vision_attention(images), their_patch_features(theirs, pixels)) > 100 * BAR


# ---- the way back


def test_our_weights_load_into_clip_model_with_the_same_bits(ours, theirs, tmp_path):
    from transformers import CLIPModel

    parameters = {"/".join(map(str, path)): v.get_value() for path, v in nnx.to_flat_state(nnx.state(ours))}
    save(tmp_path, disk_arrays("clip", parameters))
    theirs.config.save_pretrained(tmp_path)

    again, report = CLIPModel.from_pretrained(tmp_path, output_loading_info=True)

    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    expected = theirs.state_dict()
    assert again.state_dict().keys() == expected.keys()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("kind", ["CLIPVisionModel", "CLIPVisionModelWithProjection", "CLIPTextModelWithProjection"])
def test_halves_saved_alone_are_read_or_refused_by_name(theirs, tmp_path, kind):
    import transformers

    from vla_jax.types import InputError

    is_vision = "Vision" in kind
    section = theirs.config.vision_config if is_vision else theirs.config.text_config
    section = copy.deepcopy(section)
    section.projection_dim = CONFIG.projection_width
    half = getattr(transformers, kind)(section).eval()
    # CLIPVisionModel's own names lack the prefix; the classes with projection have it.
    state = theirs.vision_model.state_dict() if kind == "CLIPVisionModel" else theirs.state_dict()
    half.load_state_dict({name: tensor for name, tensor in state.items() if name in half.state_dict()})
    config = dataclasses.replace(CONFIG, text=None) if is_vision else dataclasses.replace(CONFIG, vision=None)

    if kind == "CLIPVisionModel":
        with pytest.raises(InputError, match="visual_projection"):
            ours_from(half, tmp_path, config)
    else:
        model = ours_from(half, tmp_path, config)
        side = "vision_projection" if is_vision else "text_projection"
        np.testing.assert_array_equal(
            getattr(model, side).kernel[...].T, getattr(theirs, side.replace("vision", "visual")).weight.detach()
        )
