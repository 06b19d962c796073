"""What NNX adds to a training step: the step of a 32-layer scanned policy against the same over plain dictionaries.

    python -m benchmarks.step_overhead [--layers N] [--width D] [--steps N] [--repeats N]

The policy is the tests' toy: layer norms, attention, perceptrons, AdamW, a
moving average, full recomputation, float32. `plain` computes the same loss from the same flat dictionary with jax.numpy
alone, then optax and the moving average; both losses are compared first. Both are `jax.jit` with the state donated, one
CPU device, repeats interleaved; minima of the means over `steps` are compared (other processes only add).

`host` is processor time of the calling thread from the call until it returns, before its result is there, with the
devices at rest: the Python overhead a step. The bar is 5 ms, and 1.1 for the ratio.
"""

import argparse
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table

from tests.toy import HORIZON, ToyConfig, ToyPipeline, toy_config
from vla_jax.config import RunConfig
from vla_jax.sharding import MeshConfig
from vla_jax.training.program import build_program
from vla_jax.training.step import moving_average
from vla_jax.types import Batch, Parameters

HEADS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)
    policy = ToyConfig(num_layers=options.layers, width=options.width, dropout_rate=0.0)
    config = toy_config(policy=policy, augmentation=None, num_steps=10**6)
    program = build_program(config, MeshConfig().build(jax.devices()[:1]))
    state, frozen = program.initial({})
    frozen = program.place_frozen(frozen)
    batch = jax.device_put(ToyPipeline(0, config.batch_size).batch(0))
    plain = plain_step(config)
    own = (jax.tree.map(jnp.copy, (state.parameters, state.optimizer, state.ema)), jnp.zeros((), jnp.int32))
    sides = {"nnx": (program.step, state), "plain": (plain, own)}
    figures = _measure(sides, frozen, batch, options.steps, options.repeats)
    figures["ratio"] = figures["nnx_ms"] / figures["plain_ms"]
    table = Table("figure", "value", title=f"step of {options.layers} layers, width {options.width}")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:.3f}")
    Console().print(table)
    print(json.dumps(figures))


def _measure(sides: dict[str, Any], frozen: Parameters, batch: Batch, steps: int, repeats: int) -> dict[str, float]:
    states = {name: state for name, (_, state) in sides.items()}
    walls: dict[str, list[float]] = {name: [] for name in sides}
    hosts: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, float] = {}
    for _ in range(repeats + 1):
        for name, (step, _) in sides.items():
            state, host, start = states[name], 0.0, time.perf_counter()
            for _ in range(steps):
                before = time.thread_time()
                state, metrics = step(state, frozen, batch)
                host += time.thread_time() - before
                jax.block_until_ready((state, metrics))
            walls[name].append(1e3 * (time.perf_counter() - start) / steps)
            hosts[name].append(1e3 * host / steps)
            states[name], losses[name] = state, float(metrics["loss"])
        np.testing.assert_allclose(losses["nnx"], losses["plain"], rtol=1e-4)
    wall, host = ({name: min(laps[1:]) for name, laps in kind.items()} for kind in (walls, hosts))
    return {f"{name}_ms": wall[name] for name in sides} | {f"{name}_host_ms": host[name] for name in sides}


def plain_step(config: RunConfig):
    """The same step of the toy policy, from arrays and dictionaries alone."""
    optimizer = config.optimizer.build(config.num_steps)
    decay = config.ema_decay
    assert decay is not None

    def step(state: Any, frozen: Parameters, batch: Batch) -> tuple[Any, dict[str, jax.Array]]:
        (parameters, moments, ema), count = state
        loss, gradients = jax.value_and_grad(_loss)(parameters, frozen, batch)
        updates, moments = optimizer.update(gradients, moments, parameters)
        parameters = optax.apply_updates(parameters, updates)
        ema = moving_average(ema, parameters, count, decay)
        metrics = {"loss": loss, "grad_norm": optax.global_norm(gradients), "ema_norm": optax.global_norm(ema)}
        return ((parameters, moments, ema), count + 1), metrics

    return jax.jit(step, donate_argnums=0)


def _loss(parameters: Parameters, frozen: Parameters, batch: Batch) -> jax.Array:
    p, seen = parameters | frozen, batch.observation
    pictures = seen.images["primary"]
    pixels = pictures.reshape(*pictures.shape[:2], -1).astype(jnp.float32) / 255
    tokens = _linear(p, "encoder", pixels) + _linear(p, "proprio", seen.proprio)
    stack = {path.removeprefix("trunk/blocks/"): array for path, array in p.items() if path.startswith("trunk/")}
    body = jax.checkpoint(lambda x, layer: (_block(layer, x), None), prevent_cse=False)
    tokens = _linear(p, "head", jax.lax.scan(body, tokens, stack)[0])
    actions = tokens.reshape(*tokens.shape[:2], HORIZON, -1)
    error = jnp.abs(actions - batch.action) * batch.action_mask
    return error.sum() / jnp.maximum(batch.action_mask.sum(), 1)


def _block(p: Parameters, x: jax.Array) -> jax.Array:
    y = _norm(p, "attention_norm", x)
    query, key, value = (
        _linear(p, f"attention/{name}", y).reshape(*y.shape[:2], HEADS, -1) for name in ("query", "key", "value")
    )
    weights = jax.nn.softmax(jnp.einsum("bqhf,bkhf->bhqk", query, key) * query.shape[-1] ** -0.5, axis=-1)
    attended = jnp.einsum("bhqk,bkhf->bqhf", weights, value).reshape(x.shape)
    x = x + _linear(p, "attention/out", attended)
    hidden = jax.nn.gelu(_linear(p, "mlp/up", _norm(p, "mlp_norm", x)), approximate=False)
    return x + _linear(p, "mlp/down", hidden)


def _linear(p: Parameters, name: str, x: jax.Array) -> jax.Array:
    return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]


def _norm(p: Parameters, name: str, x: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5) * p[f"{name}/scale"]
        + p[f"{name}/bias"]
    )


if __name__ == "__main__":
    main()
