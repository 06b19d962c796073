"""What a run says about its data. Declarative: the pipeline itself is in `pipeline.py`."""

import dataclasses
import math
import typing
from typing import Any, Literal

from vla_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureEntry:
    """One dataset of a mixture."""

    name: str
    """A module of `data_pipelines/datasets`; the data lie in `ROOT/NAME/VERSION`."""
    weight: float = 1.0
    """Share of the samples, relative to the other entries."""
    version: str | None = None
    """None: the SPEC's version."""
    standardization: Literal["correct", "upstream"] = "correct"
    """`upstream`: as OpenVLA's or Octo's published code, also where it contradicts the data (docs/oxe.md lists it), to
    reproduce runs trained with it."""

    def __post_init__(self):
        if not 0 < self.weight < math.inf:
            raise InputError(f"data.mixture: {self.name} has weight {self.weight}; a positive number is expected")
        _check_words(self, f"data.mixture: {self.name}: ", "standardization")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Random resized crop on the host, the same for every frame of a window and camera.

    Source: EF-VLA Table 7 (ratio); scale from the published code's evaluation script.
    """

    scale: tuple[float, float] = (0.8, 1.0)
    """Share of the picture's area that is kept, drawn uniformly."""
    ratio: tuple[float, float] = (0.9, 1.1)
    """Width over height of the kept area relative to the picture's, drawn log-uniformly."""
    slots: tuple[str, ...] = ("primary",)
    """Camera slots that are cropped."""

    def __post_init__(self):
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"data.crop.scale={self.scale}: two rising shares above 0 and up to 1 are expected")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise InputError(f"data.crop.ratio={self.ratio}: two rising positive numbers are expected")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotationConfig:
    """Small random turn on the host, the same for every frame of a window and camera; corners become black."""

    degrees: float = 5.0
    """Uniform in +-."""
    slots: tuple[str, ...] = ("primary",)
    """Camera slots that are turned."""

    def __post_init__(self):
        if not 0 < self.degrees <= 45:
            raise InputError(f"data.rotation.degrees={self.degrees}: above 0 and up to 45 expected")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """How the task of a sample is told to a policy."""

    keep_goal: float | None = None
    """Of a task with both instruction and goal picture one is left out; this is the probability that it is the
    instruction. None: both stay. Octo: 0.5."""
    furthest_goal: int | None = None
    """Steps that a goal lies ahead at most; None: up to the episode's end."""
    paraphrases: str | None = None
    """A JSON file, instruction -> list of other wordings."""
    paraphrase_share: float = 0.5
    """Of the samples whose instruction the file knows."""

    def __post_init__(self):
        for name in ("keep_goal", "paraphrase_share"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"data.task.{name}={value}: a share from 0 to 1 is expected")
        if self.furthest_goal is not None and self.furthest_goal < 0:
            raise InputError(f"data.task.furthest_goal={self.furthest_goal}: a number from 0 on is expected")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    root: str
    """Folder that holds `NAME/VERSION` dataset directories; may be read-only. A path, or a URL of gs, s3 or http."""
    cache: str | None = None
    """Local folder of index, tables and statistics; None: beside the run."""
    mixture: tuple[MixtureEntry, ...] = ()
    split: str = "train"
    weigh_by_size: bool = False
    """True: weights multiply each dataset's number of transitions in `split` (OpenVLA's and Octo's balance_weights,
    which count all splits)."""
    access: Literal["frame", "episode"] = "frame"
    """How pictures are read. `frame`: one range read each, windows of the whole dataset mixed: local disks, NFS.
    `episode`: one range read an episode, windows mixed within a pool of episodes: object storage."""
    pool_episodes: int = 256
    """Of each dataset, at most, whose windows are mixed in access mode `episode`; by all lanes together."""
    pool_bytes: int = 1 << 30
    """Held in access mode `episode` by a host that reads whole batches, by all datasets together, each by its share of
    the samples; one that reads the rows of some lanes holds their part. A third is what windows are drawn from, the
    rest are the pools before and after it. Each lane holds these three, of one episode at least, in any case, and all
    from which one batch draws."""
    lanes: int = 1
    """Parts of a batch, of neighbouring rows, to which the episodes of an epoch are dealt in access mode `episode`. On
    a pod set it to a multiple of the number of hosts that divides the batch size (64 suits most), and pool_bytes to
    what a host may hold times the number of hosts: every host then reads the episodes of its lanes alone, all hosts
    together one pass an epoch. Any number of hosts gives the same batches; hosts that share a lane each read all of it,
    as those do that share the lanes of a small dataset, which has fewer. Another number of lanes is another order of
    the data: a run keeps it when it moves to more or fewer hosts."""
    statistics_per: Literal["dataset", "embodiment"] = "dataset"
    """`embodiment`: datasets of the same robot (by their SPECs) share statistics, of all their steps together."""
    skip_unlabeled: bool = False
    """True: steps without an instruction are not sampled."""
    no_op_threshold: float | None = None
    """Windows that begin where the commanded motion's norm is below it, and the gripper stays, are not sampled.
    OpenVLA-OFT: 1e-4. None: all are."""
    crop: CropConfig | None = CropConfig()
    rotation: RotationConfig | None = None
    mirror_share: float = 0.0
    """Share of the samples whose pictures are mirrored, all cameras alike. Actions and words are not: only for
    policies that read neither."""
    task: TaskConfig = TaskConfig()
    num_threads: int = 2
    prefetch: int = 2
    """Batches prepared ahead."""
    max_bad_share: float = 0.01
    """The run stops when more than this share of the samples drawn had to be replaced."""

    def __post_init__(self):
        _check_words(self, "data.", "access", "statistics_per")
        if self.num_threads < 1 or self.prefetch < 1:
            raise InputError(f"data: num_threads={self.num_threads}, prefetch={self.prefetch}: at least 1 expected")
        if self.pool_episodes < 1 or self.pool_bytes < 1:
            raise InputError(
                f"data: pool_episodes={self.pool_episodes}, pool_bytes={self.pool_bytes}: at least 1 expected"
            )
        if self.lanes < 1:
            raise InputError(f"data.lanes={self.lanes}: at least 1 expected")
        if self.no_op_threshold is not None and not self.no_op_threshold > 0:
            raise InputError(f"data.no_op_threshold={self.no_op_threshold}: a positive number is expected")
        if not 0 <= self.mirror_share <= 1:
            raise InputError(f"data.mirror_share={self.mirror_share}: a share from 0 to 1 is expected")
        if not 0 <= self.max_bad_share <= 1:
            raise InputError(f"data.max_bad_share={self.max_bad_share}: a share from 0 to 1 is expected")


def _check_words(config: Any, prefix: str, *names: str) -> None:
    """Of fields that hold one of some words: a recipe is Python, where nothing else checks them."""
    for name in names:
        value, words = getattr(config, name), typing.get_args(typing.get_type_hints(type(config))[name])
        if value not in words:
            raise InputError(f"{prefix}{name}={value!r}: one of {list(words)} is expected")
