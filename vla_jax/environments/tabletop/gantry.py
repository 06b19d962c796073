"""Four degrees of freedom: three rails and a turn about the vertical; 10 Hz.

The gripper points down, always: of a commanded rotation only the turn about the vertical is carried out. The base
frame is the table's. Axes: a native action, s state, u actuators.
"""

from typing import ClassVar

import mujoco
import numpy as np
from jaxtyping import Float

from vla_jax.environments.tabletop.robot import Fingers, downward, limited, yaw_of
from vla_jax.environments.tabletop.scene import GRIPPER, TOOL_LENGTH

JOINTS = ("rail_x", "rail_y", "rail_z", "yaw")


class Gantry:
    NAME: ClassVar[str] = "gantry"
    RATE_HERTZ: ClassVar[float] = 10.0
    STRIDE_METRES: ClassVar[float] = 0.02
    BASE: ClassVar[np.ndarray] = np.zeros(3)
    ACTION: ClassVar[tuple[str, ...]] = ("x", "y", "z", "yaw", "gripper")
    STATE: ClassVar[tuple[str, ...]] = ("x", "y", "z", "yaw", "gripper")
    MJCF: ClassVar[str] = f"""
    <body name="carriage" pos="0 0 {TOOL_LENGTH}" gravcomp="1">
      <joint name="rail_x" type="slide" axis="1 0 0" armature="1"/>
      <joint name="rail_y" type="slide" axis="0 1 0" armature="1"/>
      <joint name="rail_z" type="slide" axis="0 0 1" armature="1"/>
      <geom type="cylinder" size="0.014 0.3" pos="0 0 0.32" rgba="0.82 0.83 0.86 1" mass="1" contype="0"
        conaffinity="0"/>
      <body name="hand" quat="0 1 0 0" gravcomp="1">
        <joint name="yaw" type="hinge" axis="0 0 -1" armature="0.02"/>{GRIPPER}
      </body>
    </body>"""
    ACTUATORS: ClassVar[str] = """
    <position joint="rail_x" kp="6000" dampratio="1"/>
    <position joint="rail_y" kp="6000" dampratio="1"/>
    <position joint="rail_z" kp="6000" dampratio="1"/>
    <position joint="yaw" kp="60" dampratio="1"/>"""

    def __init__(self, model: mujoco.MjModel):
        self._joints = [model.joint(name).qposadr[0] for name in JOINTS]
        self._fingers = Fingers(model)

    def place(self, data: mujoco.MjData, pose: Float[np.ndarray, "7"]) -> None:
        data.qpos[self._joints] = data.ctrl[:4] = [*pose[:3], yaw_of(pose)]
        self._fingers.place_open(data)

    def pose(self, data: mujoco.MjData) -> Float[np.ndarray, "7"]:
        x, y, z, yaw = data.qpos[self._joints]
        return downward(np.array([x, y, z]), yaw)

    def openness(self, data: mujoco.MjData) -> float:
        return self._fingers.openness(data)

    def state(self, data: mujoco.MjData) -> Float[np.ndarray, "s"]:
        return np.array([*data.qpos[self._joints], self.openness(data)], np.float32)

    def native_action(self, data: mujoco.MjData, pose: np.ndarray, gripper: float) -> Float[np.ndarray, "a"]:
        now = self.pose(data)
        pose = limited(now, downward(pose[:3], yaw_of(pose)), self.BASE)
        return np.array([*pose[:3], yaw_of(pose), np.clip(gripper, 0.0, 1.0)], np.float32)

    def controls(self, data: mujoco.MjData, action: np.ndarray) -> Float[np.ndarray, "u"]:
        return np.array([*action[:4], *self._fingers.controls(action[4])])
