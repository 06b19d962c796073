"""CLIP's text half, transformers' own, under the names of Hugging Face's CLIP files.

Axes: b batch, t text tokens, d shared width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModelWithProjection


def clip_text(config: dict[str, Any]) -> CLIPTextModelWithProjection:
    """Args: config: `clip` of config.json."""
    text = config["text"]
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=text["vocab_size"],
            hidden_size=text["width"],
            intermediate_size=text["mlp_width"],
            num_hidden_layers=text["num_layers"],
            num_attention_heads=text["num_heads"],
            max_position_embeddings=text["max_length"],
            hidden_act={"gelu_tanh": "gelu_pytorch_tanh"}.get(text["activation"], text["activation"]),
            layer_norm_eps=text["epsilon"],
            projection_dim=config["projection_width"],
            eos_token_id=0,  # of the pooled output, which nothing here reads
            bos_token_id=None,
            pad_token_id=None,
            attn_implementation="sdpa",
        )
    )


def token_features(model: CLIPTextModelWithProjection, ids: Tensor, mask: Tensor) -> Tensor:
    """[b, t, d]: unit length, of every token. Args: mask: bool [b, t]; padding stands on the right."""
    hidden = model.text_model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    return functional.normalize(model.text_projection(hidden), dim=-1, eps=1e-12)


def sentence_feature(model: CLIPTextModelWithProjection, ids: Tensor, mask: Tensor) -> Tensor:
    """[b, d]: that of the last valid token."""
    last = mask.sum(dim=1).long() - 1
    return token_features(model, ids, mask)[torch.arange(len(ids), device=ids.device), last]
