"""The trajectories of an RLDS folder, read by TensorFlow: by dlimp, to be transformed as one is used to.

The one file that imports TensorFlow. Neither is needed for training: `requirements-dlimp.txt` has what to install.
"""

from pathlib import Path
from typing import Any

from vla_jax.types import InputError

INSTALL = "pip install --no-deps -r requirements-dlimp.txt"


def rlds_trajectories(directory: Path, split: str) -> Any:
    """A DLataset of the split's trajectories in their order, pictures encoded. Args: directory: NAME/VERSION."""
    try:
        import dlimp
        import tensorflow_datasets
    except ImportError as error:
        raise InputError(
            f"{directory}: to read it through dlimp, tensorflow, tensorflow_datasets and dlimp are needed ({error}). "
            f"Install them beside requirements.txt: {INSTALL}"
        ) from error
    if not (Path(directory) / "dataset_info.json").is_file():
        raise InputError(f"{directory}: no dataset_info.json; expected a dataset directory NAME/VERSION in TFDS layout")
    builder = tensorflow_datasets.builder_from_directory(str(directory))
    if split not in builder.info.splits:
        raise InputError(f"{directory}/dataset_info.json: no split {split!r}; it has {sorted(builder.info.splits)}")
    return dlimp.DLataset.from_rlds(builder, split=split, shuffle=False, num_parallel_reads=1)
