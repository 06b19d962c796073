"""A small policy, a synthetic pipeline and a run of them: the protocols of the real ones, compiled in a second.

Axes: b batch, w window, y x pixels, h horizon, a action, p proprio, t text tokens, d width.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.config import DataConfig, MixtureEntry
from vla_jax.config import RunConfig
from vla_jax.nn import dropout
from vla_jax.nn.block import plain_block
from vla_jax.nn.linear import linear
from vla_jax.nn.stack import Remat, StackConfig
from vla_jax.policies.base import Policy, PolicyConfig, PretrainedPart
from vla_jax.run_directory import RunDirectory
from vla_jax.training.augmentation import ColorJitterConfig
from vla_jax.training.loop import Training
from vla_jax.training.metrics import read_metrics
from vla_jax.training.optimizer import OptimizerConfig
from vla_jax.training.preemption import Preemption
from vla_jax.training.program import build_program
from vla_jax.types import ActionSpace, Batch, CameraRequirement, DataRequirements, Dimension, Losses, Observation

WINDOW, SIZE, TEXT, HORIZON, ACTION, PROPRIO = 3, 8, 4, 2, 2, 5
ACTION_SPACE = ActionSpace(
    form="toy",
    horizon=HORIZON,
    dimensions=tuple(Dimension(name=f"a{i}", unit="m") for i in range(ACTION)),
    proprio=tuple(Dimension(name=f"p{i}", unit="m") for i in range(PROPRIO)),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyConfig(PolicyConfig):
    action_space: ActionSpace = ACTION_SPACE
    width: int = 16
    num_layers: int = 2
    dropout_rate: float = 0.2
    remat: Remat = "full"
    weights: str | None = None

    def build(self, rngs):
        return Toy(self, rngs=rngs)

    def data_requirements(self):
        return DataRequirements(
            action_space=self.action_space,
            cameras=(CameraRequirement(slot="primary", height=SIZE, width=SIZE),),
            window=WINDOW,
            window_anchor="first",
            text_length=TEXT,
        )

    def frozen_paths(self):
        return ("encoder/.*",)

    def pretrained_parts(self):
        return (PretrainedPart(prefix="encoder", family="toy", path=self.weights, frozen=True),)


class Toy(Policy):
    def __init__(self, config: ToyConfig, *, rngs):
        self.dropout_rate = config.dropout_rate
        self.encoder = linear(SIZE * SIZE * 3, config.width, (None, "embed"), rngs=rngs)
        self.proprio = linear(PROPRIO, config.width, (None, "embed"), rngs=rngs)
        block = plain_block(
            width=config.width, num_heads=2, mlp_width=2 * config.width, dropout_rate=config.dropout_rate
        )
        self.trunk = StackConfig(block=block, num_layers=config.num_layers, remat=config.remat).build(rngs)
        self.head = linear(config.width, HORIZON * config.action_space.action_width, ("embed", None), rngs=rngs)

    def predict(self, observation: Observation, key=None):
        dtype = self.head.kernel[...].dtype
        pictures = observation.images["primary"]
        pixels = pictures.reshape(*pictures.shape[:2], -1).astype(dtype) / 255
        tokens = self.encoder(pixels) + self.proprio(observation.proprio.astype(dtype))
        tokens = dropout.dropout(self.trunk(tokens, key=key), 0.5 * self.dropout_rate, key)
        return self.head(tokens).reshape(*tokens.shape[:2], HORIZON, -1).astype(jnp.float32)

    def loss(self, batch: Batch, *, key) -> Losses:
        error = jnp.abs(self.predict(batch.observation, key) - batch.action) * batch.action_mask
        weight = batch.action_mask.sum().astype(jnp.float32)
        total = error.sum() / jnp.maximum(weight, 1)
        return Losses(total=total, weight=weight, terms={"l1": total})

    def act(self, observation, *, key=None):
        return self.predict(observation, key)[:, -1]


@dataclasses.dataclass(frozen=True)
class ToyPipeline:
    """Batches that are a pure function of (seed, step), out of two datasets of different size."""

    seed: int
    batch_size: int
    statistics: dict = dataclasses.field(default_factory=lambda: {"datasets": {"toy": {"count": 7}}})
    num_replaced: int = 0

    def batches(self, start_step: int, rows: slice):
        step = start_step
        while True:
            yield jax.tree.map(lambda leaf: leaf[rows], self.batch(step))
            step += 1

    def batch(self, step: int) -> Batch:
        random = np.random.default_rng([self.seed, step])
        b = self.batch_size
        dataset = random.integers(0, 2, b)
        proprio = random.normal(size=(b, WINDOW, PROPRIO)).astype(np.float32)
        images = random.integers(0, 256, (b, WINDOW, SIZE, SIZE, 3), dtype=np.uint8)
        action = (
            np.repeat(proprio[:, :, None, :ACTION], HORIZON, axis=2) + images.mean((2, 3, 4))[..., None, None] / 255
        )
        mask = np.ones((b, WINDOW), bool)
        mask[:, -1] = random.random(b) < 0.7
        observation = Observation(
            images={"primary": images},
            image_masks={"primary": mask},
            proprio=proprio,
            timestep_mask=mask,
            instruction_tokens=random.integers(0, 9, (b, TEXT)).astype(np.int32),
            instruction_mask=np.ones((b, TEXT), bool),
        )
        action_mask = np.broadcast_to(mask[..., None, None], action.shape).copy()
        ids = np.stack([dataset, random.integers(0, 5, b), random.integers(0, 30 + 40 * dataset)], axis=1)
        return Batch(
            observation=observation,
            action=action.astype(np.float32),
            action_mask=action_mask,
            sample_ids=ids.astype(np.int32),
            sample_index=np.arange(step * b, (step + 1) * b, dtype=np.uint32),
        )


def toy_config(**changes) -> RunConfig:
    config = RunConfig(
        name="toy",
        policy=ToyConfig(),
        data=DataConfig(root="nowhere", mixture=(MixtureEntry(name="small"), MixtureEntry(name="large", weight=2.0))),
        optimizer=OptimizerConfig(peak_rate=3e-3, warmup_steps=4),
        augmentation=ColorJitterConfig(),
        compute_dtype="float32",
        ema_decay=0.9,
        batch_size=8,
        num_steps=20,
        log_every=1,
        checkpoint_every=5,
        allow_random_frozen=True,
    )
    return dataclasses.replace(config, **changes)


def train_toy(config, folder, *, pipeline=None, preemption=None, given=dict, devices=1) -> bool:
    program = build_program(config, config.mesh.build(jax.devices()[:devices]))
    pipeline = pipeline or ToyPipeline(config.seed, config.batch_size)
    return Training(program, RunDirectory(folder), pipeline, preemption or Preemption()).run(given)


class StopAfter(Preemption):
    """A preemption that arrives after so many steps."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def requested(self, step):
        return step == self.step


def series(folder, *names) -> list[tuple]:
    return [tuple(line[name] for name in names) for line in read_metrics(folder / "metrics.jsonl")]
