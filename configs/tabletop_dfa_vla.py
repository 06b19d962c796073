"""Small DFA-VLAs trained from scratch on the demo's data: the wiring of Models 1 to 5, not the paper's experiments.

Command   python train.py --config configs/tabletop_dfa_vla.py --data.root DATA --run-dir RUN
Data      as of configs/tabletop_ef_vla.py; squares of a grid stand in for SAM's boxes.
Variants  get_config is Model 5; model1, model2, model3, model4; tiny.
Chips     None: meant for 2 CPU cores, as the demo's EF-VLA is. Success is not yet measured.
Differs from the demo's recipe: targets are normalised by quantiles to -1..1, for actions come through tanh.
"""

import dataclasses

from configs import tabletop_ef_vla
from vla_jax.config import RunConfig
from vla_jax.policies.dfa_vla import dfa_vla_scratch


def get_config() -> RunConfig:
    return _run(5)


def model1() -> RunConfig:
    return _run(1)


def model2() -> RunConfig:
    return _run(2)


def model3() -> RunConfig:
    return _run(3)


def model4() -> RunConfig:
    return _run(4)


def tiny() -> RunConfig:
    return dataclasses.replace(get_config(), name="tabletop_dfa_vla_tiny", num_steps=20, batch_size=8)


def _run(model: int) -> RunConfig:
    config = tabletop_ef_vla.get_config()
    space = dataclasses.replace(config.action_space, normalization="quantile")
    return dataclasses.replace(config, name=f"tabletop_dfa_model{model}", policy=dfa_vla_scratch(space, model))
