"""Six degrees of freedom: turret, shoulder, elbow and a wrist of three; inverse kinematics inside; 5 Hz.

The base frame stands 45 cm behind the table's middle. Axes: a native action, s state, u actuators.
"""

from typing import ClassVar

import mujoco
import numpy as np
from jaxtyping import Float

from vla_jax.environments.tabletop.kinematics import InverseKinematics
from vla_jax.environments.tabletop.robot import Fingers, limited, measured
from vla_jax.environments.tabletop.scene import GRIPPER

JOINTS = ("turret", "shoulder", "elbow", "roll", "pitch", "flange")
READY = np.array([0.0, 0.25, 1.7, 0.0, np.pi - 1.95, 0.0])
"""Fingers down above the table: where inverse kinematics starts from at a reset."""
LIMB = 'rgba="0.85 0.86 0.88 1" contype="0" conaffinity="0"'
JOINT = 'rgba="0.3 0.33 0.4 1" contype="0" conaffinity="0"'


class Arm:
    NAME: ClassVar[str] = "arm"
    RATE_HERTZ: ClassVar[float] = 5.0
    STRIDE_METRES: ClassVar[float] = 0.03
    BASE: ClassVar[np.ndarray] = np.array([-0.45, 0.0, 0.0])
    ACTION: ClassVar[tuple[str, ...]] = ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper")
    STATE: ClassVar[tuple[str, ...]] = (*JOINTS, "x", "y", "z", "qx", "qy", "qz", "qw", "gripper")
    MJCF: ClassVar[str] = f"""
    <body name="base" pos="{BASE[0]} 0 0">
      <geom type="cylinder" size="0.06 0.05" pos="0 0 0.05" {JOINT}/>
      <body name="turret" pos="0 0 0.1" gravcomp="1">
        <joint name="turret" axis="0 0 1" range="-2.6 2.6" armature="0.1"/>
        <geom type="cylinder" size="0.05 0.075" pos="0 0 0.075" mass="1" {LIMB}/>
        <body name="upper_arm" pos="0 0 0.15" gravcomp="1">
          <joint name="shoulder" axis="0 1 0" range="-1.2 1.9" armature="0.1"/>
          <geom type="capsule" size="0.03" fromto="0 0 0 0 0 0.36" mass="0.5" {LIMB}/>
          <body name="forearm" pos="0 0 0.36" gravcomp="1">
            <joint name="elbow" axis="0 1 0" range="0.1 2.8" armature="0.1"/>
            <geom type="capsule" size="0.034" fromto="0 -0.02 0 0 0.02 0" mass="0.1" {JOINT}/>
            <geom type="capsule" size="0.024" fromto="0 0 0 0 0 0.2" mass="0.3" {LIMB}/>
            <body name="roll" pos="0 0 0.2" gravcomp="1">
              <joint name="roll" axis="0 0 1" range="-2.6 2.6" armature="0.02"/>
              <geom type="capsule" size="0.022" fromto="0 0 0 0 0 0.14" mass="0.2" {LIMB}/>
              <body name="pitch" pos="0 0 0.14" gravcomp="1">
                <joint name="pitch" axis="0 1 0" range="-2.2 2.2" armature="0.02"/>
                <geom type="capsule" size="0.022" fromto="0 0 0 0 0 0.05" mass="0.1" {JOINT}/>
                <body name="hand" pos="0 0 0.06" quat="0 0 0 1" gravcomp="1">
                  <joint name="flange" axis="0 0 1" range="-2.9 2.9" armature="0.02"/>{GRIPPER}
                </body>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>"""
    ACTUATORS: ClassVar[str] = "".join(
        f'\n    <position joint="{name}" kp="{kp}" dampratio="1"/>'
        for name, kp in zip(JOINTS, (900, 900, 900, 120, 120, 120))
    )

    def __init__(self, model: mujoco.MjModel):
        self._joints = [model.joint(name).qposadr[0] for name in JOINTS]
        self._tool = model.site("tool").id
        self._fingers = Fingers(model)
        self._kinematics = InverseKinematics(model, JOINTS, self._tool)

    def place(self, data: mujoco.MjData, pose: Float[np.ndarray, "7"]) -> None:
        data.qpos[self._joints] = data.ctrl[:6] = self._solve(READY, pose)
        self._fingers.place_open(data)

    def pose(self, data: mujoco.MjData) -> Float[np.ndarray, "7"]:
        return measured(data.site_xpos[self._tool] - self.BASE, data.site_xmat[self._tool])

    def openness(self, data: mujoco.MjData) -> float:
        return self._fingers.openness(data)

    def state(self, data: mujoco.MjData) -> Float[np.ndarray, "s"]:
        return np.array([*data.qpos[self._joints], *self.pose(data), self.openness(data)], np.float32)

    def native_action(self, data: mujoco.MjData, pose: np.ndarray, gripper: float) -> Float[np.ndarray, "a"]:
        pose = limited(self.pose(data), np.asarray(pose, np.float64), self.BASE)
        return np.array([*pose, np.clip(gripper, 0.0, 1.0)], np.float32)

    def controls(self, data: mujoco.MjData, action: np.ndarray) -> Float[np.ndarray, "u"]:
        joints = self._solve(data.qpos[self._joints], action[:7])
        return np.array([*joints, *self._fingers.controls(action[7])])

    def _solve(self, start: np.ndarray, pose: np.ndarray) -> np.ndarray:
        return self._kinematics(start, pose[:3] + self.BASE, pose[3:])
