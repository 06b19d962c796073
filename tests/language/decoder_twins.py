"""Tiny random decoders of transformers and ours with the same weights, family by family."""

from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import torch

from tests.parity import ours_from, randomize
from vla_jax.language import gemma, llama, qwen2, qwen3

FAMILIES: dict[str, tuple[ModuleType, str]] = {
    "llama": (llama, "Llama"),
    "qwen2": (qwen2, "Qwen2"),
    "qwen3": (qwen3, "Qwen3"),
    "gemma": (gemma, "Gemma"),
}
NORM_OFFSETS = {"gemma": 0.0}


class Twins(NamedTuple):
    family: str
    config: Any
    folder: Path
    theirs: Any
    ours: Any


def build_theirs(family: str, config, *, kind: str = "ForCausalLM", **more):
    import transformers

    name = FAMILIES[family][1]
    settings = getattr(transformers, f"{name}Config")(**config.settings(), attn_implementation="eager", **more)
    return getattr(transformers, f"{name}{kind}")(settings)


def build_twins(family: str, folder: Path, config=None, *, embedding_scale: float = 1.0) -> Twins:
    config = config or FAMILIES[family][0].tiny()
    theirs = randomize(build_theirs(family, config), norm_offset=NORM_OFFSETS.get(family, 1.0))
    with torch.no_grad():
        theirs.get_input_embeddings().weight.mul_(embedding_scale)
    theirs.save_pretrained(folder)
    return Twins(family, config, folder, theirs, ours_from(folder, family, config))


def padded_ids(*, left: bool, lengths: tuple[int, ...] = (9, 4, 7)) -> tuple[np.ndarray, np.ndarray]:
    """Ids of unequal lengths, padded with 0, and which of them are valid."""
    longest = max(lengths)
    places, lengths_ = np.arange(longest)[None], np.array(lengths)[:, None]
    valid = places >= longest - lengths_ if left else places < lengths_
    ids = np.zeros(valid.shape, np.int32)
    ids[valid] = np.random.default_rng(1).integers(1, 99, valid.sum())
    return ids, valid


def as_torch(*arrays):
    tensors = [torch.tensor(np.asarray(array)).long() for array in arrays]
    return tensors if len(tensors) > 1 else tensors[0]


def at_valid(states, valid):
    """Rows of padding, which nobody reads, differ; they are made zero."""
    states = states.detach().numpy() if isinstance(states, torch.Tensor) else np.asarray(states)
    return np.where(np.asarray(valid)[..., None], states, 0)


def logits_of(decoder, ids, mask, positions):
    x = decoder.embed(jnp.asarray(ids))
    out = decoder.hidden(x, mask=jnp.asarray(mask), rotation=decoder.rotation(jnp.asarray(positions)))
    return decoder.logits(out.tokens)
