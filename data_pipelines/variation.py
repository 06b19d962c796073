"""What is drawn for a sample beside its window: how its pictures are cut and turned, its goal, the words of its task.

Each generator comes from (seed, global sample index) alone, so that a sample is the same whatever was read before.
Nothing is drawn that nothing asks for.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.discovery import refuse_unknown_slots
from data_pipelines.parts import part_digest
from data_pipelines.transforms.crop import RandomCrop
from data_pipelines.transforms.geometry import WHOLE, Geometry
from data_pipelines.transforms.goal import UniformGoal
from data_pipelines.transforms.paraphrase import Paraphrase, read_wordings
from data_pipelines.transforms.rotation import RandomRotation
from data_pipelines.transforms.task import OneTelling
from vla_jax.types import DataRequirements

Generate = Callable[[], np.random.Generator]


@dataclasses.dataclass(frozen=True)
class Variation:
    data: DataConfig
    requirements: DataRequirements

    def __post_init__(self):
        for key in ("crop", "rotation"):
            if config := getattr(self.data, key):
                refuse_unknown_slots(f"data.{key}.slots", config.slots)
        _ = self.paraphrase  # a file that cannot be read is named now, not at the first sample

    def geometries(self, generate: Generate) -> dict[str, Geometry]:
        """By camera slot; those that are shown as they are may be missing."""
        crop, rotation = self.data.crop, self.data.rotation
        if crop is None and rotation is None and not self.data.mirror_share:
            return {}
        generator = generate()
        boxes = {slot: RandomCrop(crop.scale, crop.ratio)(generator) for slot in crop.slots} if crop else {}
        turns = {slot: RandomRotation(rotation.degrees)(generator) for slot in rotation.slots} if rotation else {}
        mirrored = bool(self.data.mirror_share and generator.random() < self.data.mirror_share)
        needs = self.requirements
        every = {camera.source for camera in needs.cameras} | {depth.slot for depth in needs.depths}
        slots = every if mirrored else boxes.keys() | turns.keys()
        return {slot: Geometry(boxes.get(slot, WHOLE), turns.get(slot, 0.0), mirrored) for slot in slots}

    @property
    def tells(self) -> bool:
        """Whether `task` does anything."""
        return bool(self.requirements.goals) or self.paraphrase is not None

    def task(self, text: str, row: int, last: int, generator: np.random.Generator) -> tuple[str, int | None]:
        """The instruction, "" where it is left out, and the row of the goal, None where there is none.

        Args: row: the last step that the policy sees; last: of its episode.
        """
        task, goal = self.data.task, None
        if self.paraphrase is not None and text:
            text = self.paraphrase(text, generator)
        if self.requirements.goals:
            goal = UniformGoal(task.furthest_goal)(row, last, generator)
            if task.keep_goal is not None:
                text_stays, goal_stays = OneTelling(task.keep_goal)(bool(text), True, generator)
                text, goal = text if text_stays else "", goal if goal_stays else None
        return text, goal

    @property
    def files(self) -> dict[str, str]:
        """Digests of what is read beside the datasets, by the file's name; another layout of it makes no difference."""
        if self.paraphrase is None:
            return {}
        wordings = json.dumps(self.paraphrase.wordings, sort_keys=True)
        return {f"{self.data.task.paraphrases} (data.task.paraphrases)": part_digest(wordings)}

    @functools.cached_property
    def paraphrase(self) -> Paraphrase | None:
        task = self.data.task
        if task.paraphrases is None:
            return None
        return Paraphrase(read_wordings(Path(task.paraphrases)), task.paraphrase_share)
