"""What the parity tests against transformers share: random weights, the way through a saved folder, one error measure.

The random weights have no zero bias and no norm of exactly one, so that a missed transpose or a swapped pair shows;
sizes of the tiny models differ from one another for the same reason.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flax import nnx
from safetensors.torch import load_file

from vla_jax.convert.load import load_pretrained
from vla_jax.convert.save import disk_arrays
from vla_jax.parameters import abstract, split
from vla_jax.policies.base import PretrainedPart

BAR = 1e-5
"""Largest difference of a tiny twin in float32, relative to the largest value."""
INTEGERS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def relative_error(ours, theirs) -> float:
    """Largest difference, relative to the largest value. NaN where either has one."""
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    assert ours.shape == theirs.shape, f"{ours.shape} is not {theirs.shape}"
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def randomize(model: torch.nn.Module, *, scale: float = 0.3, seed: int = 0, norm_offset: float = 1.0):
    """Draws every parameter anew; scales of norms around `norm_offset`. Returns the model, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = scale * torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name.rpartition(".")[0].lower() and name.endswith("weight") and parameter.ndim == 1
            parameter.copy_(norm_offset + noise if is_norm else noise)
    return model.eval()


def ours_from(folder: Path, family: str, config, *, checked: bool = True) -> Any:
    """Our model with the weights of a Hugging Face folder. `checked=False`: config.json may disagree (wrong twins)."""
    settings = config.settings() if checked else {}
    part = PretrainedPart(prefix="model", family=family, path=str(folder), frozen=True, settings=settings)
    structure = abstract(lambda: config.build(nnx.Rngs(0)))
    shapes = {f"model/{path}": shape for path, shape in structure.shapes().items()}
    parameters = load_pretrained(part, shapes)
    return structure.merge({path.removeprefix("model/"): array for path, array in parameters.items()})


def assert_round_trip(folder: Path, family: str, ours: nnx.Module, *, without: tuple[str, ...] = ()) -> None:
    """Our export has the folder's tensors, each with the same bits. `without`: names that an export leaves out."""
    expected = {}
    for file in sorted(folder.glob("*.safetensors")):
        expected |= load_file(file)
    found = dict(disk_arrays(family, split(ours)[1]))
    assert found.keys() == expected.keys() - set(without)
    for name, array in found.items():
        theirs = expected[name].numpy()
        assert array.shape == theirs.shape, name
        assert array.dtype == theirs.dtype, name
        bits = INTEGERS[array.dtype.itemsize]
        np.testing.assert_array_equal(np.ascontiguousarray(array).view(bits), theirs.view(bits), err_msg=name)


def num_parameters(config) -> int:
    """Of our model, without memory."""
    return sum(math.prod(shape.shape) for shape in abstract(lambda: config.build(nnx.Rngs(0))).shapes().values())


def num_torch_parameters(build) -> int:
    """Of the model that `build()` makes, tied ones once, on the meta device."""
    with torch.device("meta"):
        model = build()
    return sum(parameter.numel() for parameter in model.parameters())
