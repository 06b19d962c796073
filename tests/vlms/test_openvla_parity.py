"""OpenVLA's model against an assembly of transformers' encoders and Llama, with wrong twins that must fail.

transformers has no such class; the assembly follows openvla's `modeling_prismatic.py`.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.torch import save_file

from tests.encoders.test_prismatic_parity import HALF, build, in_timm
from tests.encoders.torch_pictures import pictures, pixels
from tests.language.decoder_twins import as_torch, at_valid, build_theirs
from tests.parity import (
    BAR,
    assert_round_trip,
    num_parameters,
    num_torch_parameters,
    ours_from,
    randomize,
    relative_error,
)
from vla_jax.convert.families.openvla import FAMILY
from vla_jax.encoders.prismatic import ROUNDED_MEAN, ROUNDED_STD
from vla_jax.language import generation
from vla_jax.language.generation import DecodingConfig
from vla_jax.types import InputError
from vla_jax.vlms import openvla
from vla_jax.vlms.openvla import PRESETS, from_settings, tiny

torch = pytest.importorskip("torch")

CONFIG = tiny()
WIDTH, TEXT_WIDTH = CONFIG.vision.width, CONFIG.language.decoder.width
IMAGES = pictures(40, 40)
LENGTHS = np.array([[9], [6]])


class Assembly(torch.nn.Module):
    """DINOv2 and SigLIP as far as the block before their last, the projector, Llama."""

    def __init__(self, config=CONFIG):
        super().__init__()
        width, out = config.vision.width, config.language.decoder.width
        self.dino, self.siglip = build(config.vision)
        gelu, layer = torch.nn.GELU(), torch.nn.Linear
        self.projector = torch.nn.Sequential(
            layer(width, 4 * width), gelu, layer(4 * width, out), gelu, layer(out, out)
        )
        self.llama = build_theirs("llama", config.language)

    def embeddings(self, ids):
        first = self.dino(pixels(IMAGES, ROUNDED_MEAN, ROUNDED_STD), output_hidden_states=True).hidden_states[-2]
        second = self.siglip(pixels(IMAGES, HALF, HALF), output_hidden_states=True).hidden_states[-2]
        patches = torch.cat([first[:, 1 + self.dino.config.num_register_tokens :], second], dim=-1)
        words = self.llama.get_input_embeddings()(ids)
        return torch.cat([words[:, :1], self.projector(patches), words[:, 1:]], dim=1)

    def forward(self, ids, valid):
        with torch.no_grad():
            x = self.embeddings(ids)
            seen = torch.ones(len(ids), x.shape[1] - ids.shape[1], dtype=valid.dtype)
            mask = torch.cat([valid[:, :1], seen, valid[:, 1:]], dim=1)
            return self.llama(inputs_embeds=x, attention_mask=mask).logits

    def on_disk(self) -> dict[str, torch.Tensor]:
        state = in_timm(self.dino, self.siglip)
        state |= {f"language_model.{name}": tensor for name, tensor in self.llama.state_dict().items()}
        for index, name in ((0, "fc1"), (2, "fc2"), (4, "fc3")):
            state |= {f"projector.{name}.{key}": x for key, x in self.projector[index].state_dict().items()}
        return {name: tensor.contiguous() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def theirs():
    return randomize(Assembly())


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("openvla")
    save_file(theirs.on_disk(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG.settings() | {"model_type": "openvla"}))
    return folder


@pytest.fixture(scope="module")
def ours(folder):
    return ours_from(folder, "openvla", CONFIG)


def texts():
    """Padded on the right."""
    valid = np.arange(9)[None] < LENGTHS
    return np.where(valid, np.random.default_rng(0).integers(1, 99, (2, 9)), 0).astype(np.int32), valid


def error(ours, theirs, *, change=lambda prompt: prompt) -> float:
    """Of the logits at valid positions. Args: change: what a wrong twin makes of the prompt."""

    def run(ids, valid):
        prompt = change(ours.prompt(ids, valid, ours.picture_tokens(IMAGES)))
        out = ours.language.hidden(prompt.embeddings, mask=prompt.mask, rotation=prompt.rotation)
        return ours.language.logits(out.tokens), prompt.valid

    ids, valid = texts()
    logits, all_valid = jax.jit(run)(ids, valid)
    return relative_error(at_valid(logits, all_valid), at_valid(theirs(*as_torch(ids, valid)), all_valid))


def test_logits_with_a_picture_behind_the_first_token(ours, theirs):
    assert error(ours, theirs) <= BAR


def test_greedy_decoding_gives_the_tokens_of_generate(ours, theirs):
    ids = texts()[0][:1]  # without padding, which generate wants on the left
    with torch.no_grad():
        x = theirs.embeddings(as_torch(np.repeat(ids, 2, axis=0)))[:1]
        mask = torch.ones(x.shape[:2], dtype=torch.long)
        expected = theirs.llama.generate(
            inputs_embeds=x, attention_mask=mask, do_sample=False, max_new_tokens=7, pad_token_id=0, eos_token_id=None
        )

    def run(ids):
        prompt = ours.prompt(ids, jnp.ones(ids.shape, bool), ours.picture_tokens(IMAGES[:1]))
        prefix = generation.prefill(ours.language, prompt, 6)
        return generation.decode(ours.language, prefix, DecodingConfig(num_tokens=7))

    np.testing.assert_array_equal(jax.jit(run)(ids), expected)


def test_a_picture_before_the_first_token_fails(ours, theirs):
    def wrong(prompt):
        count = prompt.embeddings.shape[1] - 9
        order = np.r_[1 : count + 1, 0, count + 1 : count + 9]
        return prompt._replace(embeddings=prompt.embeddings[:, order])

    assert error(ours, theirs, change=wrong) > 100 * BAR


def test_a_picture_that_all_its_tokens_see_fails(ours, theirs):
    def wrong(prompt):
        count = prompt.embeddings.shape[1] - 9
        return prompt._replace(mask=prompt.mask.dense().at[:, 1 : count + 1, 1 : count + 1].set(True))

    assert error(ours, theirs, change=wrong) > 100 * BAR


def test_every_tensor_goes_out_as_it_came(folder, ours):
    assert_round_trip(folder, "openvla", ours)


def test_settings_of_the_release_are_its_preset_s():
    """config.json of openvla-7b, as far as it bears on the model."""
    release = {
        "model_type": "openvla",
        "arch_specifier": "no-align+fused-gelu-mlp",
        "vision_backbone_id": "dinosiglip-vit-so-224px",
        "text_config": {"model_type": "llama", "pad_token_id": 32000, "vocab_size": 32064},
    }
    assert from_settings(FAMILY.settings(release)) == openvla.openvla_7b()
    assert from_settings(FAMILY.settings(CONFIG.settings())) == CONFIG
    with pytest.raises(InputError, match=r"arch_specifier is 'no-align\+gelu-mlp'"):
        from_settings(FAMILY.settings(release | {"arch_specifier": "no-align+gelu-mlp"}))
    with pytest.raises(InputError, match="arch_specifier is 'no-align"):
        from_settings(FAMILY.settings({key: value for key, value in release.items() if key != "arch_specifier"}))


def test_parameters_of_openvla_7b():
    config = PRESETS["openvla_7b"]()
    found = num_parameters(config)
    # transformers' DINOv2 has a mask token and a class position besides; Llama and projector are the assembly's own.
    dino = config.vision.encoders[0]
    assert found == num_torch_parameters(lambda: Assembly(config)) - 2 * dino.width
    assert round(found / 1e6) == 7541
