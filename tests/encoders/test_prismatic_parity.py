"""Prismatic's pair under timm's names, against transformers' Dinov2WithRegisters and Siglip with the same weights.

timm is not installed; that its names, shapes and order of queries, keys and values are these was read in its source and
in OpenVLA's. It keeps positions of the patches alone, the class token's being part of the token.
"""

import dataclasses
import json

import jax
import pytest
from safetensors.torch import save_file

from tests.encoders.torch_pictures import pictures, pixels
from tests.parity import (
    BAR,
    assert_round_trip,
    num_parameters,
    num_torch_parameters,
    ours_from,
    randomize,
    relative_error,
)
from vla_jax.convert.families.prismatic import FAMILY
from vla_jax.encoders import prismatic
from vla_jax.encoders.prismatic import PRESETS, ROUNDED_MEAN, ROUNDED_STD, from_settings, tiny
from vla_jax.types import InputError

torch = pytest.importorskip("torch")

CONFIG = tiny()
IMAGES = pictures(40, 40)
HALF = (0.5, 0.5, 0.5)


def build(config):
    """The two of transformers, at the sizes of `config`."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, SiglipVisionConfig, SiglipVisionModel

    dino, siglip = config.encoders

    def sizes(vit):
        return {
            "hidden_size": vit.width,
            "num_hidden_layers": vit.num_layers,
            "num_attention_heads": vit.num_heads,
            "image_size": vit.image_size,
            "patch_size": vit.patch_size,
        }

    ours = {"mlp_ratio": dino.mlp_width // dino.width, "num_register_tokens": dino.num_registers}
    theirs = {"intermediate_size": siglip.mlp_width, "hidden_act": "gelu"}
    return (
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes(dino), **ours)),
        SiglipVisionModel(SiglipVisionConfig(**sizes(siglip), **theirs)),
    )


def block_in_timm(block, attention: str, out: str, norms: tuple[str, str], order=("q_proj", "k_proj", "v_proj")):
    """A block's tensors by timm's names. Args: order: of what lies in the fused tensor."""
    found = {}
    for kind in ("weight", "bias"):
        parts = [getattr(getattr(getattr(block, attention), name), kind) for name in order]
        found[f"attn.qkv.{kind}"] = torch.cat(parts)
        found[f"attn.proj.{kind}"] = getattr(getattr(getattr(block, attention), out), kind)
        for index, norm in enumerate(norms, start=1):
            found[f"norm{index}.{kind}"] = getattr(getattr(block, norm), kind)
            found[f"mlp.fc{index}.{kind}"] = getattr(getattr(block.mlp, f"fc{index}"), kind)
    return found


def in_timm(dino, siglip, **order) -> dict[str, torch.Tensor]:
    positions = dino.embeddings.position_embeddings
    state = {
        "featurizer.cls_token": dino.embeddings.cls_token + positions[:, :1],
        "featurizer.reg_token": dino.embeddings.register_tokens,
        "featurizer.pos_embed": positions[:, 1:],
        "fused_featurizer.pos_embed": siglip.embeddings.position_embedding.weight[None],
        "fused_featurizer.attn_pool.latent": siglip.head.probe,
    }
    for kind in ("weight", "bias"):
        query, key_value = getattr(siglip.head.attention, f"in_proj_{kind}").tensor_split([siglip.config.hidden_size])
        modules = {
            "featurizer.patch_embed.proj": dino.embeddings.patch_embeddings.projection,
            "featurizer.norm": dino.layernorm,
            "fused_featurizer.patch_embed.proj": siglip.embeddings.patch_embedding,
            "fused_featurizer.norm": siglip.post_layernorm,
            "fused_featurizer.attn_pool.proj": siglip.head.attention.out_proj,
            "fused_featurizer.attn_pool.norm": siglip.head.layernorm,
            "fused_featurizer.attn_pool.mlp.fc1": siglip.head.mlp.fc1,
            "fused_featurizer.attn_pool.mlp.fc2": siglip.head.mlp.fc2,
        }
        state |= {f"{name}.{kind}": getattr(module, kind) for name, module in modules.items()}
        state |= {f"fused_featurizer.attn_pool.q.{kind}": query, f"fused_featurizer.attn_pool.kv.{kind}": key_value}
    for index, block in enumerate(dino.encoder.layer):
        tensors = block_in_timm(block, "attention", "o_proj", ("norm1", "norm2"), **order)
        tensors |= {f"ls{i}.scale_factor": getattr(block, f"layer_scale{i}").lambda1 for i in (1, 2)}
        state |= {f"featurizer.blocks.{index}.{name}": tensor for name, tensor in tensors.items()}
    for index, block in enumerate(siglip.encoder.layers):
        tensors = block_in_timm(block, "self_attn", "out_proj", ("layer_norm1", "layer_norm2"), **order)
        state |= {f"fused_featurizer.blocks.{index}.{name}": tensor for name, tensor in tensors.items()}
    return {f"vision_backbone.{name}": tensor.detach().clone().contiguous() for name, tensor in state.items()}


def write(folder, state):
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG.settings() | {"model_type": "openvla"}))
    return folder


@pytest.fixture(scope="module")
def pair():
    dino, siglip = build(CONFIG)
    return randomize(dino), randomize(siglip, seed=1)


@pytest.fixture(scope="module")
def folder(pair, tmp_path_factory):
    return write(tmp_path_factory.mktemp("prismatic"), in_timm(*pair))


@pytest.fixture(scope="module")
def expected(pair):
    """Of the block before the last one, patches alone."""
    dino, siglip = pair
    with torch.no_grad():
        first = dino(pixels(IMAGES, ROUNDED_MEAN, ROUNDED_STD), output_hidden_states=True).hidden_states[-2]
        second = siglip(pixels(IMAGES, HALF, HALF), output_hidden_states=True).hidden_states[-2]
    return torch.cat([first[:, 1 + dino.config.num_register_tokens :], second], dim=-1)


def tokens(ours):
    return jax.jit(lambda images: ours(images).tokens)(IMAGES)


def test_features_of_both_before_their_last_block(folder, expected):
    ours = ours_from(folder, "prismatic", CONFIG)
    grid = ours(IMAGES)
    assert relative_error(grid.tokens, expected) <= BAR
    assert (grid.rows, grid.columns, grid.tokens.shape[-1]) == (5, 5, CONFIG.width)


def test_the_kept_pooling_is_siglips(folder, pair):
    ours = ours_from(folder, "prismatic", CONFIG)
    with torch.no_grad():
        found = pair[1](pixels(IMAGES, HALF, HALF))
    pooled = ours.siglip_pooling(ours.siglip(IMAGES).tokens)
    assert relative_error(pooled, found.pooler_output) <= BAR


def test_every_tensor_goes_out_as_it_came(folder):
    assert_round_trip(folder, "prismatic", ours_from(folder, "prismatic", CONFIG))


def test_the_rest_of_openvla_may_lie_in_the_file(pair, tmp_path):
    rest = {"projector.fc1.weight": torch.ones(2, 2), "language_model.lm_head.weight": torch.ones(2, 2)}
    ours_from(write(tmp_path, in_timm(*pair) | rest), "prismatic", CONFIG)
    write(tmp_path, in_timm(*pair) | {"vision_backbone.featurizer.head.weight": torch.ones(2, 2)})
    with pytest.raises(InputError, match="have no place in this model"):
        ours_from(tmp_path, "prismatic", CONFIG)


# ---- wrong twins


def test_another_order_of_queries_keys_and_values_fails(pair, tmp_path, expected):
    write(tmp_path, in_timm(*pair, order=("k_proj", "q_proj", "v_proj")))
    assert relative_error(tokens(ours_from(tmp_path, "prismatic", CONFIG)), expected) > 100 * BAR


@pytest.mark.parametrize("wrong", ["tanh gelu", "exact mean", "one block less"])
def test_wrong_insides_fail(wrong, folder, expected, monkeypatch):
    ours = ours_from(folder, "prismatic", CONFIG)
    if wrong == "tanh gelu":
        ours.siglip.stack.blocks.mlp.activation = "gelu_tanh"
        assert relative_error(tokens(ours), expected) > 10 * BAR
        return
    if wrong == "exact mean":
        ours.dino.patches.mean = (0.485, 0.456, 0.406)
    else:
        ours.siglip.config = dataclasses.replace(ours.siglip.config, num_layers=3)
    assert relative_error(tokens(ours), expected) > 10 * BAR


# ---- settings and sizes


def test_settings_of_openvla_and_of_its_backbone_id_are_the_same():
    settings = FAMILY.settings({"vision_backbone_id": "dinosiglip-vit-so-224px"})
    assert from_settings(settings) == prismatic.dinosiglip_224()
    assert from_settings(settings).settings() == settings
    assert from_settings(CONFIG.settings()) == CONFIG
    with pytest.raises(InputError, match=r"timm_model_ids is \['vit_a', 'vit_b'\]"):
        from_settings(settings | {"timm_model_ids": ["vit_a", "vit_b"]})
    with pytest.raises(InputError, match="use_fused_vision_backbone is False"):
        from_settings(settings | {"use_fused_vision_backbone": False})
    with pytest.raises(InputError, match="vision_backbone_id is 'siglip-vit-so400m'"):
        FAMILY.settings({"vision_backbone_id": "siglip-vit-so400m"})


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_of_the_presets(name):
    config = PRESETS[name]()
    in_transformers = sum(num_torch_parameters(lambda index=index: build(config)[index]) for index in (0, 1))
    mask_token = class_position = 1024  # which timm's DINOv2 lacks
    assert num_parameters(config) == in_transformers - mask_token - class_position
    assert config.width == 2176


def test_openvlas_pair_has_the_parameters_that_timm_counts():
    """303,230,976 and 427,680,704: `timm.create_model(..., num_classes=0, img_size=224)`, timm 1.0.31."""
    assert num_parameters(PRESETS["dinosiglip_224"]()) == 303_230_976 + 427_680_704
