"""One layer of Llama-2 7B and one of CLIP-L at full width against torch, in float32, with wrong twins that must fail.

    python -m benchmarks.wide_layers [--length N]

Random weights go through a saved Hugging Face folder and the importer, as real ones do; about 0.8 GB on disk, 3 GB in
memory. Errors are relative to the largest value. Exit status 1: an error above the bar, or a wrong twin not far above.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import nnx
from rich.console import Console
from rich.table import Table

from tests.parity import BAR, ours_from, relative_error
from vla_jax.encoders.clip import ClipConfig, clip_l14
from vla_jax.language.llama import LlamaConfig, llama2_7b
from vla_jax.nn import attention, masks
from vla_jax.nn.norms import RmsNormConfig
from vla_jax.nn.stack import Taps
from vla_jax.parameters import abstract, split

FAR = 100 * BAR
INPUT_SCALE = 0.02
"""Of trained token tables: small enough for epsilon to show."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=128, help="tokens of the language layer")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)
    errors = {}
    for name, case in (("Llama-2 7B", lambda: llama_errors(options.length)), ("CLIP-L", clip_errors)):
        errors |= {f"{name}: {what}": value for what, value in case()}
    table = Table("layer", "error / largest value", "expected")
    bad = []
    for name, value in errors.items():
        is_right = name.endswith("as released")
        if not (value <= BAR if is_right else value > FAR):
            bad.append(name)
        table.add_row(name, f"{value:.2e}", f"<= {BAR:.0e}" if is_right else f"> {FAR:.0e}")
    Console().print(table)
    print(json.dumps(errors))
    if bad:
        sys.exit(f"not as expected: {bad}")


def llama_errors(length: int) -> Iterator[tuple[str, float]]:
    """A vocabulary of 64 rows: the layer is what is looked at."""
    decoder = dataclasses.replace(llama2_7b().decoder, num_layers=1, vocab_size=64)
    config = LlamaConfig(decoder=decoder)
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**config.settings(), attn_implementation="eager", dtype="float32")
    )
    x = _input((1, length, decoder.width))
    ours = _through_a_folder(theirs, "llama", config)
    mask = masks.causal(length)
    expected = _llama_layer(theirs.model, x, np.asarray(mask))
    positions = jnp.arange(length)[None]

    def error(*, mask=mask, **fields) -> float:
        model = _with(ours, dataclasses.replace(decoder, **fields).build)
        rotation = model.rotation(positions)
        out = model.hidden(jnp.asarray(x), mask=mask, rotation=rotation, taps=Taps([0]))
        return relative_error(out.layers[0], expected)

    yield "as released", error()
    yield "epsilon 1e-6", error(norm=RmsNormConfig(epsilon=1e-6))
    yield "theta 1e6", error(theta=1e6)
    yield "gelu", error(activation="gelu")
    yield "not causal", error(mask=None)
    with mock.patch.object(attention, "rotate", _rotate_neighbours):
        yield "interleaved positions", error()


def clip_errors() -> Iterator[tuple[str, float]]:
    vision = dataclasses.replace(clip_l14().vision, num_layers=1)
    config = ClipConfig(vision=vision, text=None, projection_width=clip_l14().projection_width)
    settings = config.settings()["vision_config"] | {"projection_dim": config.projection_width}
    theirs = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(**settings, attn_implementation="eager")
    )
    x = _input((1, 257, vision.width))
    ours = _through_a_folder(theirs, "clip", config)
    with torch.no_grad():
        expected = theirs.vision_model.encoder.layers[0](torch.tensor(x), attention_mask=None)

    def error(**fields) -> float:
        wrong = dataclasses.replace(config, vision=dataclasses.replace(vision, **fields))
        return relative_error(_with(ours, wrong.build).vision.stack(jnp.asarray(x)), expected)

    yield "as released", error()
    yield "epsilon 1e-6", error(epsilon=1e-6)
    yield "gelu", error(activation="gelu")


def _llama_layer(model, x: np.ndarray, mask: np.ndarray) -> torch.Tensor:
    added = torch.tensor(np.where(mask, 0, np.finfo(np.float32).min), dtype=torch.float32)[None, None]
    positions = torch.arange(x.shape[1])[None]
    with torch.no_grad():
        rotation = model.rotary_emb(torch.tensor(x), positions)
        return model.layers[0](torch.tensor(x), attention_mask=added, position_embeddings=rotation)


def _through_a_folder(theirs, family: str, config) -> nnx.Module:
    """Norms and biases are drawn anew: they start as ones and zeros, which hide what is swapped."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.ndim == 1:
                start = float("norm" in name and name.endswith("weight"))
                parameter.copy_(start + 0.1 * torch.randn(parameter.shape, generator=generator))
    with tempfile.TemporaryDirectory() as folder:
        theirs.eval().save_pretrained(folder)
        return ours_from(Path(folder), family, config)


def _with(model: nnx.Module, build: Callable[[nnx.Rngs], nnx.Module]):
    """The same parameters in a model of another config."""
    return abstract(lambda: build(nnx.Rngs(0))).merge(split(model)[1])


def _input(shape: tuple[int, ...]) -> np.ndarray:
    return INPUT_SCALE * np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _rotate_neighbours(x, rotation):
    half = x.shape[-1] // 2
    cos, sin = (angle[..., :, None, :half] for angle in rotation)
    first, second = x[..., ::2], x[..., 1::2]
    return jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1).reshape(x.shape)


if __name__ == "__main__":
    main()
