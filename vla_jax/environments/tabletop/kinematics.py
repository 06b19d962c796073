"""Inverse kinematics by damped least squares. Axes: j joints."""

from collections.abc import Sequence

import mujoco
import numpy as np
from jaxtyping import Float

DAMPING = 0.02
MAX_ITERATIONS = 60
MAX_STEP_RADIANS = 0.4
TOLERANCE = 1e-6
"""Of the error's length: metres and radians together."""


class InverseKinematics:
    def __init__(self, model: mujoco.MjModel, joints: Sequence[str], site: int):
        self._model, self._site = model, site
        self._scratch = mujoco.MjData(model)
        self._positions = [model.joint(name).qposadr[0] for name in joints]
        self._dofs = [model.joint(name).dofadr[0] for name in joints]
        self._low, self._high = np.array([model.joint(name).range for name in joints]).T

    def __call__(
        self, start: Float[np.ndarray, "j"], position: Float[np.ndarray, "3"], quaternion: Float[np.ndarray, "4"]
    ) -> Float[np.ndarray, "j"]:
        """Joint angles that bring the site to a pose of the world; the nearest within their ranges if none does.

        Args: quaternion: x, y, z, w.
        """
        joints, wanted = np.array(start, np.float64), np.roll(np.asarray(quaternion, np.float64), 1)
        for _ in range(MAX_ITERATIONS):
            error, jacobian = self._error(joints, position, wanted)
            if np.linalg.norm(error) < TOLERANCE:
                break
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + DAMPING**2 * np.eye(6), error)
            joints = joints + step * min(1.0, MAX_STEP_RADIANS / max(np.abs(step).max(), 1e-12))
            joints = np.clip(joints, self._low, self._high)
        return joints

    def _error(self, joints: np.ndarray, position: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        data, model = self._scratch, self._model
        data.qpos[self._positions] = joints
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        error, local, here = np.zeros(6), np.zeros(3), np.zeros(4)
        error[:3] = position - data.site_xpos[self._site]
        mujoco.mju_mat2Quat(here, data.site_xmat[self._site])
        mujoco.mju_subQuat(local, wanted, here)
        error[3:] = data.site_xmat[self._site].reshape(3, 3) @ local
        jacobian = np.zeros((6, model.nv))
        mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], self._site)
        return error, jacobian[:, self._dofs]
