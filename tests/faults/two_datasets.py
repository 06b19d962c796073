"""A recipe for the fault tests: the tiny EF-VLA twin on two generated datasets, everything random switched on."""

import dataclasses

from configs import ef_vla_bridge
from data_pipelines.config import CropConfig, MixtureEntry
from vla_jax.config import RunConfig


def get_config() -> RunConfig:
    config = ef_vla_bridge.tiny()
    mixture = (MixtureEntry(name="bridge_dataset", weight=2.0), MixtureEntry(name="fractal20220817_data"))
    config = dataclasses.replace(
        config,
        name="two_datasets",
        data=dataclasses.replace(config.data, mixture=mixture, crop=CropConfig()),
        num_steps=90,
        batch_size=4,
        checkpoint_every=4,
        log_every=1,
    )
    assert config.augmentation is not None
    assert config.policy.trunk.dropout_rate > 0
    return config
