"""How many steps a recipe's data have: those of the datasets that are indexed where the recipe looks for them.

What is not indexed is not guessed: published trees give episodes, not steps.
"""

from pathlib import Path

from data_pipelines.config import DataConfig, MixtureEntry
from data_pipelines.discovery import find_dataset
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.sidecar import find_index
from data_pipelines.storage import locate
from vla_jax.types import InputError


def dataset_steps(data: DataConfig) -> dict[str, int | None]:
    """Steps of the mixture's datasets in the split that trains; None: not indexed under data.root or data.cache."""
    return {entry.name: _steps(data, entry) for entry in data.mixture}


def _steps(data: DataConfig, entry: MixtureEntry) -> int | None:
    version = entry.version or find_dataset(entry.name).spec.version
    try:
        directory = read_directory(locate(data.root) / entry.name / version)
        index = find_index(directory, data.split, Path(data.cache or "no cache"))
    except (InputError, OSError):
        return None
    return None if index is None else index.num_steps
