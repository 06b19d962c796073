"""Speed of the backbones against torch on this CPU: the forward pass of CLIP-L, the training step of a 300M decoder.

    python -m benchmarks.backbones [--case clip_l|decoder] [--rounds N] [--repeats N] [--tiny]

Each figure comes from a process of its own (`--side`); both sides alternate, round after round. Nothing but the raw
call is timed, float32 and equal sizes on both sides. torch: transformers, SDPA, `inference_mode`, AdamW(fused=True), no
recomputation. JAX: our modules under `jax.jit`, optax, donated buffers, no recomputation. Printed beside the ratio:
the share that it reaches of JAX's own rate of matrix products (side `matmul`: the best over the shapes of the case).
Minima over all calls are compared; processor time is shown too, since other processes disturb the clock.
Bar: JAX <= 0.9 x torch.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

THREADS = len(os.sched_getaffinity(0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    batch: int = 8
    width: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    mlp_width: int = 4096
    patch_size: int = 14
    image_size: int = 224

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    def shapes(self) -> list[tuple[int, int, int]]:
        rows = self.batch * (self.patches + 1)
        return [(rows, self.width, self.width), (rows, self.width, self.mlp_width), (rows, self.mlp_width, self.width)]

    def flops(self) -> float:
        tokens = self.patches + 1
        layer = 2 * tokens * self.width * (4 * self.width + 2 * self.mlp_width) + 4 * tokens**2 * self.width
        return self.batch * (self.num_layers * layer + 2 * self.patches * 3 * self.patch_size**2 * self.width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """290 million parameters, the table of tokens used as the head too."""

    batch: int = 4
    length: int = 256
    width: int = 1024
    num_layers: int = 20
    num_heads: int = 16
    mlp_width: int = 2816
    vocab_size: int = 32000

    def shapes(self) -> list[tuple[int, int, int]]:
        rows = self.batch * self.length
        pairs = [(self.width, self.width), (self.width, self.mlp_width), (self.mlp_width, self.width)]
        return [(rows, *pair) for pair in [*pairs, (self.width, self.vocab_size)]]

    def flops(self) -> float:
        """Forward and backward (three times forward); scores above the diagonal count as half the square."""
        layer = 2 * self.width * (4 * self.width + 3 * self.mlp_width) + 2 * self.length * self.width
        return 3 * self.batch * self.length * (self.num_layers * layer + 2 * self.width * self.vocab_size)


CASES = {"clip_l": Clip(), "decoder": Decoder()}
TINY = {
    "clip_l": Clip(width=32, num_layers=2, num_heads=2, mlp_width=64, image_size=56),
    "decoder": Decoder(length=16, width=32, num_layers=2, num_heads=2, mlp_width=48, vocab_size=64),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", choices=["jax", "torch", "matmul"], help="one process: prints a line of JSON")
    parser.add_argument("--case", choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=4, help="timed calls in a process")
    parser.add_argument("--tiny", action="store_true", help="tries the benchmark out; the figures mean nothing")
    options = parser.parse_args()
    if options.side is None:
        for case in [options.case] if options.case else list(CASES):
            _compare(case, options)
        return
    sizes = (TINY if options.tiny else CASES)[options.case]
    if options.side == "matmul":
        result = {"rate": _matmul_rate(sizes, options.repeats)}
    else:
        result = _timed(SIDES[options.side, options.case](sizes), options.repeats)
    print(json.dumps(result))


def _compare(case: str, options: argparse.Namespace) -> None:
    laps: dict[str, list[dict]] = {"jax": [], "torch": [], "matmul": []}
    for turn in range(options.rounds):
        sides = ["torch", "jax", "matmul"] if turn % 2 else ["jax", "torch", "matmul"]
        for side in sides:
            laps[side].append(_process(side, case, options))
    wall = {side: [t for lap in laps[side] for t in lap["wall"]] for side in ("jax", "torch")}
    cpu = {side: min(t for lap in laps[side] for t in lap["cpu"]) for side in ("jax", "torch")}
    best, rate = {side: min(times) for side, times in wall.items()}, max(lap["rate"] for lap in laps["matmul"])
    reached = (TINY if options.tiny else CASES)[case].flops() / best["jax"]
    figures = {
        "jax_s": best["jax"],
        "torch_s": best["torch"],
        "jax_over_torch": best["jax"] / best["torch"],
        "jax_over_torch_median": statistics.median(wall["jax"]) / statistics.median(wall["torch"]),
        "jax_over_torch_processor": cpu["jax"] / cpu["torch"],
        "jax_gflops": reached / 1e9,
        "jax_matmul_gflops": rate / 1e9,
        "share_of_matmul_rate": reached / rate,
    }
    table = Table("figure", "value", title=f"{case}: forward pass" if case == "clip_l" else f"{case}: training step")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:.3f}")
    Console().print(table)
    print(json.dumps({"case": case} | figures | {"laps": laps}))


def _process(side: str, case: str, options: argparse.Namespace) -> dict:
    command = [sys.executable, "-m", "benchmarks.backbones", "--side", side, "--case", case]
    command += ["--repeats", str(options.repeats), *(["--tiny"] if options.tiny else [])]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def _timed(call: Callable[[], object], repeats: int) -> dict[str, list[float]]:
    """`call` returns when its result is there. Three calls first: they compile and fill caches."""
    for _ in range(3):  # types of the carried state are settled after the second
        call()
    wall, cpu = [], []
    for _ in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return {"wall": wall, "cpu": cpu}


def _matmul_rate(sizes: Clip | Decoder, repeats: int) -> float:
    import jax
    import jax.numpy as jnp

    product, rates, random = jax.jit(jnp.matmul), [], np.random.default_rng(0)
    for rows, inner, columns in sizes.shapes():
        a, b = (jnp.asarray(random.standard_normal(s, np.float32)) for s in ((rows, inner), (inner, columns)))
        times = _timed(lambda a=a, b=b: product(a, b).block_until_ready(), 4 * repeats)["wall"]
        rates.append(2 * rows * inner * columns / min(times))
    return max(rates)


def _jax_clip(sizes: Clip) -> Callable[[], object]:
    import jax
    from flax import nnx

    from vla_jax.encoders.clip import clip_l14
    from vla_jax.nn import attention_kernels

    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)
    config = clip_l14()
    names = [field.name for field in dataclasses.fields(sizes) if field.name not in ("batch",)]
    config = dataclasses.replace(config.vision, **{name: getattr(sizes, name) for name in names})
    model = jax.jit(lambda key: config.build(nnx.Rngs(key)))(jax.random.key(0))
    images = jax.numpy.asarray(_images(sizes))
    forward = jax.jit(attention_kernels.of_inference().around(lambda model, images: model.hidden(images).tokens))
    return lambda: jax.block_until_ready(forward(model, images))


def _torch_clip(sizes: Clip) -> Callable[[], object]:
    """Starts from normalised floats, ours from uint8 pictures: what that costs is on our side."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.set_num_threads(THREADS)
    config = CLIPVisionConfig(
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp_width,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        patch_size=sizes.patch_size,
        image_size=sizes.image_size,
        hidden_act="quick_gelu",
    )
    model = CLIPVisionModel._from_config(config, attn_implementation="sdpa").eval()
    pixels = torch.from_numpy(_images(sizes)).permute(0, 3, 1, 2).float().div(255).contiguous()

    def call():
        with torch.inference_mode():
            return model(pixel_values=pixels)

    return call


def _jax_decoder(sizes: Decoder) -> Callable[[], object]:
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from vla_jax.language.decoder import DecoderConfig
    from vla_jax.nn import masks
    from vla_jax.nn.cross_entropy import mean_cross_entropy

    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)
    config = DecoderConfig(
        width=sizes.width,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_heads,
        head_width=sizes.width // sizes.num_heads,
        mlp_width=sizes.mlp_width,
        vocab_size=sizes.vocab_size,
        max_length=sizes.length,
        tied_head=True,
        remat="none",
    )
    optimizer = optax.adamw(1e-4, weight_decay=0.01)

    def loss(model, ids):
        positions = jnp.broadcast_to(jnp.arange(sizes.length), ids.shape)
        out = model.hidden(model.embed(ids), mask=masks.causal(sizes.length), rotation=model.rotation(positions))
        counted = jnp.ones((sizes.batch, sizes.length - 1), bool)
        return mean_cross_entropy(out.tokens[:, :-1], ids[:, 1:], counted, head=model.logits)

    def step(model, state, ids):
        value, gradients = jax.value_and_grad(loss)(model, ids)
        updates, state = optimizer.update(gradients, state, model)
        return optax.apply_updates(model, updates), state, value

    model = jax.jit(lambda key: config.build(nnx.Rngs(key)))(jax.random.key(0))
    carried = [model, jax.jit(optimizer.init)(model)]
    compiled, ids = jax.jit(step, donate_argnums=(0, 1)), jnp.asarray(_ids(sizes))

    def call():
        carried[0], carried[1], value = compiled(*carried, ids)
        return jax.block_until_ready((carried, value))[1]

    return call


def _torch_decoder(sizes: Decoder) -> Callable[[], object]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(THREADS)
    config = LlamaConfig(
        hidden_size=sizes.width,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_heads,
        intermediate_size=sizes.mlp_width,
        vocab_size=sizes.vocab_size,
        max_position_embeddings=sizes.length,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    ids = torch.from_numpy(_ids(sizes)).long()

    def call():
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return call


def _images(sizes: Clip) -> np.ndarray:
    shape = (sizes.batch, sizes.image_size, sizes.image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _ids(sizes: Decoder) -> np.ndarray:
    return np.random.default_rng(0).integers(0, sizes.vocab_size, (sizes.batch, sizes.length), dtype=np.int32)


SIDES: dict[tuple[str, str], Callable[..., Callable[[], object]]] = {
    ("jax", "clip_l"): _jax_clip,
    ("torch", "clip_l"): _torch_clip,
    ("jax", "decoder"): _jax_decoder,
    ("torch", "decoder"): _torch_decoder,
}

if __name__ == "__main__":
    main()
