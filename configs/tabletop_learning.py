"""The three papers' policies, small and from scratch, on equal terms: the recipes of `make bench-learning`.

Command   make bench-learning, or one by hand:
          python train.py --config configs/tabletop_learning.py:dfa_model5 --data.root DATA --run-dir RUN
Data      That of benchmarks/learning.py: both robots of the tabletop, suite `reach`; the arm is never shown blue and
          purple blocks being reached for.
Variants  ef_vla (get_config), lf_vla, dfa_model1 to dfa_model5, qwenvla_oft, deepvision_vla; tiny
Equal     Data, seed, number of steps, batch, optimizer, pictures of 64 pixels, the proprio that is read. Not equal:
          parameters and time a step, which the table prints; DFA-VLA has one camera, as in its paper, the others the
          wrist's too; and its targets are normalised by quantiles to -1..1, for its actions come through tanh, those
          of the others by mean and deviation.
Chips     None: minutes each on 2 CPU cores; what was seen is in docs/benchmarks.md.
"""

import dataclasses

from configs import tabletop_ef_vla
from vla_jax.config import RunConfig
from vla_jax.policies.base import PolicyConfig
from vla_jax.policies.deepvision_vla import deepvision_vla_scratch
from vla_jax.policies.dfa_vla import dfa_vla_scratch
from vla_jax.policies.ef_vla import ef_vla_scratch, lf_vla_scratch
from vla_jax.policies.qwenvla_oft import qwenvla_oft_scratch

ACTION_SPACE = tabletop_ef_vla.get_config().action_space
PATCH_SIZE = 16
"""Sixteen tokens a picture; Qwen3-VL's tower joins four patches of 8 pixels to one. With patches of 8 EF-VLA's loss
falls half as fast a step, which takes 1.6 times as long."""


def get_config() -> RunConfig:
    return ef_vla()


def ef_vla() -> RunConfig:
    return _run("ef_vla", ef_vla_scratch(ACTION_SPACE, patch_size=PATCH_SIZE))


def lf_vla() -> RunConfig:
    return _run("lf_vla", lf_vla_scratch(ACTION_SPACE, patch_size=PATCH_SIZE))


def dfa_model1() -> RunConfig:
    return _dfa_vla(1)


def dfa_model2() -> RunConfig:
    return _dfa_vla(2)


def dfa_model3() -> RunConfig:
    return _dfa_vla(3)


def dfa_model4() -> RunConfig:
    return _dfa_vla(4)


def dfa_model5() -> RunConfig:
    return _dfa_vla(5)


def qwenvla_oft() -> RunConfig:
    return _run("qwenvla_oft", qwenvla_oft_scratch(ACTION_SPACE))


def deepvision_vla() -> RunConfig:
    return _run("deepvision_vla", deepvision_vla_scratch(ACTION_SPACE, expert_patch_size=PATCH_SIZE))


def tiny() -> RunConfig:
    return dataclasses.replace(get_config(), name="tabletop_learning_tiny", num_steps=20, batch_size=8)


def _dfa_vla(model: int) -> RunConfig:
    space = dataclasses.replace(ACTION_SPACE, normalization="quantile")
    return _run(f"dfa_model{model}", dfa_vla_scratch(space, model, patch_size=PATCH_SIZE))


def _run(name: str, policy: PolicyConfig) -> RunConfig:
    config = tabletop_ef_vla.get_config()
    return dataclasses.replace(config, name=f"tabletop_{name}", policy=policy, num_steps=2_000, batch_size=64)
