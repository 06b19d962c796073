"""Llama's configuration in transformers, of the language model's sizes as the JAX training configuration has them."""

from typing import Any

from transformers import LlamaConfig


def llama_config(decoder: dict[str, Any]) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=decoder["vocab_size"],
        hidden_size=decoder["width"],
        intermediate_size=decoder["mlp_width"],
        num_hidden_layers=decoder["num_layers"],
        num_attention_heads=decoder["num_heads"],
        num_key_value_heads=decoder["num_key_value_heads"],
        head_dim=decoder["head_width"],
        max_position_embeddings=decoder["max_length"],
        rms_norm_eps=decoder["norm"]["epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": decoder["theta"]},
        attention_bias=bool(decoder["biases"]),
        tie_word_embeddings=decoder["tied_head"],
        pad_token_id=None,
        attn_implementation="sdpa",
    )
