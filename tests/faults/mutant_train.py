"""train.py with one fault in its restore: python mutant_train.py FAULT ARGUMENTS..."""

import dataclasses
import sys

import jax
import jax.numpy as jnp

import train
from vla_jax.training.checkpoint import Checkpoints, Restored

restore = Checkpoints.restore


def data_position(restored: Restored, target) -> Restored:
    return dataclasses.replace(restored, next_step=0)


def rng(restored: Restored, target) -> Restored:
    key = jax.device_put(jax.random.key(42), target.key.sharding)
    return dataclasses.replace(restored, state=restored.state.replace(key=key))


def ema(restored: Restored, target) -> Restored:
    copied = jax.tree.map(jnp.copy, restored.state.parameters)
    return dataclasses.replace(restored, state=restored.state.replace(ema=copied))


def optimizer(restored: Restored, target) -> Restored:
    zeros = jax.tree.map(jnp.zeros_like, restored.state.optimizer)
    return dataclasses.replace(restored, state=restored.state.replace(optimizer=zeros))


FAULTS = {fault.__name__: fault for fault in (data_position, rng, ema, optimizer)}

if __name__ == "__main__":
    fault = FAULTS[sys.argv[1]]
    Checkpoints.restore = lambda self, step, target: fault(restore(self, step, target), target)
    sys.exit(train.main(sys.argv[2:]))
