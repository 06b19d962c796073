"""What the picture encoders' parity tests share: pictures on both sides, and what hooks see inside a torch model."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import torch

from tests.parity import BAR, relative_error
from vla_jax.encoders.vit import IMAGENET_MEAN, IMAGENET_STD
from vla_jax.nn.stack import Taps


def pictures(height: int, width: int, *, batch: int = 2) -> jax.Array:
    shape = (batch, height, width, 3)
    return jnp.asarray(np.random.default_rng(height + width).integers(0, 256, shape, dtype=np.uint8))


def pixels(images: jax.Array, mean=IMAGENET_MEAN, std=IMAGENET_STD) -> torch.Tensor:
    """The same pictures as torch wants them: normalised, channels first."""
    normal = (np.asarray(images, np.float32) / 255 - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(normal.astype(np.float32), 3, 1)))


def outputs_of(modules: Sequence[torch.nn.Module], run: Callable[[], object]) -> list[torch.Tensor]:
    """What each module gave while `run()` ran."""
    seen: dict[int, torch.Tensor] = {}

    def keep(index: int):
        return lambda module, inputs, output: seen.update({index: output[0] if isinstance(output, tuple) else output})

    handles = [module.register_forward_hook(keep(index)) for index, module in enumerate(modules)]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return [seen[index] for index in range(len(modules))]


def heads(x: torch.Tensor, num_heads: int) -> torch.Tensor:
    return x.unflatten(-1, (num_heads, -1))


def everything(vit, images: jax.Array):
    """The grid with every layer's output and projections, and the embedded tokens."""
    every = range(vit.config.num_layers)
    return jax.jit(lambda pictures: (vit(pictures, taps=Taps(every, every)), vit.embed(pictures)))(images)


def assert_equal_inside(grid, embedded, states: Sequence[torch.Tensor], projections: Sequence[list[torch.Tensor]]):
    """Args: states: what each block reads, and what the last one gives; projections: by layer, heads apart."""
    assert relative_error(embedded, states[0]) <= BAR
    split = embedded.shape[1] - grid.tokens.shape[1]
    assert len(grid.layers) == len(states) - 1 == len(projections[0])
    for layer, state in enumerate(states[1:]):
        assert relative_error(grid.layers[layer], state[:, split:]) <= BAR, f"layer {layer}"
    for ours, theirs in zip(grid.projections, projections, strict=True):
        for layer, expected in enumerate(theirs):
            assert relative_error(ours[layer], expected) <= BAR, f"projection of layer {layer}"
