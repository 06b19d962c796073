"""Steps of a mixture: those of datasets that are indexed, and no guess for the others."""

from data_pipelines.config import DataConfig, MixtureEntry
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.sidecar import open_index
from vla_jax.planning.epoch import dataset_steps


def test_only_indexed_datasets_have_a_known_number_of_steps(bridge_data, tmp_path):
    entries = (MixtureEntry(name="bridge_dataset"), MixtureEntry(name="droid"))
    data = DataConfig(root=str(bridge_data), cache=str(tmp_path), mixture=entries)
    assert dataset_steps(data) == {"bridge_dataset": None, "droid": None}
    index = open_index(read_directory(bridge_data / "bridge_dataset" / "1.0.0"), "train", tmp_path)
    assert dataset_steps(data) == {"bridge_dataset": index.num_steps, "droid": None}
    assert index.num_steps > 0
