"""The environment `tabletop`: see `base.py` for the interface, `suites.py` for the tasks.

Axes: y x pixels, a native action.
"""

import mujoco
import numpy as np
from jaxtyping import Float, UInt8

from vla_jax.environments.base import EnvironmentSpec, Observed
from vla_jax.environments.tabletop.arm import Arm
from vla_jax.environments.tabletop.gantry import Gantry
from vla_jax.environments.tabletop.goals import Situation
from vla_jax.environments.tabletop.robot import Robot, downward
from vla_jax.environments.tabletop.scene import HEIGHTS, PARKED, TIMESTEP, mjcf
from vla_jax.environments.tabletop.suites import COLOURS, SUITES, TASKS, Item, Task
from vla_jax.types import InputError

ROBOTS = {robot.NAME: robot for robot in (Gantry, Arm)}
SEGMENTS = 5
RAMP_SEGMENTS = 3
"""A command is approached linearly over this share of a step, then held."""


class Tabletop:
    def __init__(self, embodiment: str, image_size: int | None):
        """Args: image_size: side of the square pictures; None: state only."""
        robot = ROBOTS[embodiment]
        self.spec, self.image_size = _spec(robot), image_size
        self._model = mujoco.MjModel.from_xml_string(mjcf(robot.MJCF, robot.ACTUATORS))
        self._data = mujoco.MjData(self._model)
        self.robot = robot(self._model)
        self._tool = self._model.site("tool").id
        self._names = [self._model.body(number).name for number in range(self._model.nbody)]
        self._movable = [name for name in self._names if name.split("_")[0] in HEIGHTS]
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        self._task: Task | None = None
        self._instruction = ""
        self._begun = False

    def __enter__(self) -> "Tabletop":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def reset(self, task: str, initial_state: int) -> Observed:
        if task not in TASKS:
            raise InputError(f"environment tabletop: no task {task!r}; there are {sorted(TASKS)}")
        if initial_state < 0:
            raise InputError(f"environment tabletop: initial state {initial_state}: a number from 0 on expected")
        self._task = TASKS[task]
        scene, self._instruction = self._task.scene(initial_state)
        mujoco.mj_resetData(self._model, self._data)
        self._arrange(scene.items)
        self.robot.place(self._data, downward(np.array(scene.tool[:3]) - self.robot.BASE, scene.tool[3]))
        mujoco.mj_forward(self._model, self._data)
        self._begun = False
        self._note_progress()
        return self._observe()

    def native_action(self, pose: Float[np.ndarray, "7"], gripper: float) -> Float[np.ndarray, "a"]:
        if not (np.isfinite(pose).all() and np.isfinite(gripper) and np.linalg.norm(pose[3:]) > 1e-6):
            raise ValueError(f"a commanded pose that is not finite or has no direction: {pose}, gripper {gripper}")
        return self.robot.native_action(self._data, np.asarray(pose, np.float64), float(gripper))

    def step(self, action: Float[np.ndarray, "a"]) -> tuple[Observed, bool]:
        before = self._data.ctrl.copy()
        goal = self.robot.controls(self._data, np.asarray(action, np.float64))
        substeps = round(1 / (self.spec.rate_hertz * TIMESTEP * SEGMENTS))
        for segment in range(1, SEGMENTS + 1):
            self._data.ctrl[:] = before + (goal - before) * min(1.0, segment / RAMP_SEGMENTS)
            mujoco.mj_step(self._model, self._data, substeps)
        mujoco.mj_forward(self._model, self._data)
        self._note_progress()
        return self._observe(), self.success()

    def render(self, camera: str, height: int, width: int) -> UInt8[np.ndarray, "y x 3"]:
        if (height, width) not in self._renderers:
            renderer = mujoco.Renderer(self._model, height, width)
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                renderer.scene.flags[flag] = False
            self._renderers[height, width] = renderer
        renderer = self._renderers[height, width]
        renderer.update_scene(self._data, camera)
        return renderer.render()

    def situation(self) -> Situation:
        """What goals and experts are judged and led by: positions that a policy never sees."""
        bodies = {name: self._data.body(name).xpos.copy() for name in self._movable}
        return Situation(self._data.site_xpos[self._tool].copy(), self.robot.openness(self._data), bodies)

    def pose(self) -> Float[np.ndarray, "7"]:
        """Of the gripper in the robot's base frame, float64."""
        return self.robot.pose(self._data)

    def block_yaw(self, body: str) -> float:
        """In radians."""
        matrix = self._data.body(body).xmat
        return float(np.arctan2(matrix[3], matrix[0]))

    @property
    def task(self) -> Task:
        assert self._task is not None, "reset comes first"
        return self._task

    def success(self) -> bool:
        now = self.situation()
        return all(goal.reached(now) for goal in self.task.goals)

    def score(self) -> float:
        return 1.0 if self.success() else 0.5 if self._begun else 0.0

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def _arrange(self, items: tuple[Item, ...]) -> None:
        present = {item.body: item for item in items}
        for name in self._movable:
            item, body = present.get(name), self._model.body(name)
            height = HEIGHTS[name.split("_")[0]]
            place = PARKED if item is None else (item.x, item.y, height)
            position = np.array(place) + ([body.id, 0, 0] if item is None else 0)
            turn = 0.0 if item is None else item.yaw
            if body.mocapid[0] >= 0:
                self._data.mocap_pos[body.mocapid[0]] = position
            else:
                start = self._model.jnt_qposadr[body.jntadr[0]]
                self._data.qpos[start : start + 7] = [*position, np.cos(turn / 2), 0, 0, np.sin(turn / 2)]
                self._model.body_gravcomp[body.id] = float(item is None)
            if item is not None:
                self._model.geom(name).rgba[:3] = COLOURS[item.colour]

    def _note_progress(self) -> None:
        now = self.situation()
        self._begun |= any(goal.begun(now) or goal.reached(now) for goal in self.task.goals)

    def _observe(self) -> Observed:
        images = {}
        if self.image_size is not None:
            size = self.image_size
            images = {slot: self.render(camera, size, size) for slot, camera in self.spec.cameras.items()}
        pose = self.pose().astype(np.float32)
        gripper = self.robot.openness(self._data)
        return Observed(images, pose, gripper, self.robot.state(self._data), self._instruction)


def _spec(robot: type[Robot]) -> EnvironmentSpec:
    return EnvironmentSpec(
        name="tabletop",
        embodiment=robot.NAME,
        dataset=f"tabletop_{robot.NAME}",
        rate_hertz=robot.RATE_HERTZ,
        cameras={"primary": "front", "wrist": "wrist"},
        action_dimensions=robot.ACTION,
        state_dimensions=robot.STATE,
        suites={name: tuple(task.name for task in suite.tasks) for name, suite in SUITES.items()},
        max_steps={name: round(suite.seconds * robot.RATE_HERTZ) for name, suite in SUITES.items()},
    )
