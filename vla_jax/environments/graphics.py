"""Chooses MuJoCo's GL backend before MuJoCo is imported: EGL, then OSMesa, else none (state only).

MuJoCo reads MUJOCO_GL once, at import, so that each candidate is tried in a process of its own. Children inherit the
choice through the environment variable.
"""

import logging
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from vla_jax.types import InputError

LOG = logging.getLogger(__name__)
BACKENDS = ("egl", "osmesa")
TRIED = "VLA_JAX_GL_TRIED"
"""What was found out, for this process and its children: a backend that renders, or `none`."""
PACKAGES = ("libegl1", "libgl1-mesa-dri", "libopengl0")
"""Debian's and Ubuntu's, by measurement the fewest that let EGL render without a GPU."""
PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/><light pos="0 0 3"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 8, 8) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any()
"""
PROBE_SECONDS = 60


def choose_backend() -> str | None:
    """The backend that renders here, now also in MUJOCO_GL; None where there is none.

    A MUJOCO_GL of the user's is respected: it is tried alone. Raises: InputError: MuJoCo was imported before the
    choice was made, and renders with something else.
    """
    os.environ.setdefault("LP_NUM_THREADS", "1")  # Mesa's software renderer: several processes beat its threads
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    if wanted in ("off", "disable", "disabled", "0", "false"):
        return None
    if (tried := os.environ.get(TRIED)) and tried == (wanted or "none"):
        return wanted or None
    if "mujoco" in sys.modules and not wanted:
        raise InputError("mujoco was imported before a GL backend was chosen; set MUJOCO_GL=egl (or osmesa)")
    for backend in (wanted,) if wanted else BACKENDS:
        if _renders(backend):
            os.environ["MUJOCO_GL"] = os.environ[TRIED] = backend
            return backend
    if not wanted:
        os.environ[TRIED] = "none"
    return None


def require_backend(*, install: bool = False) -> str:
    """As `choose_backend`; where nothing renders, installs the packages as root if asked to, or says which they are.

    Raises: InputError: no backend renders; the message holds the line that mends it.
    """
    if backend := choose_backend():
        return backend
    wanted = os.environ.get("MUJOCO_GL", "")
    if wanted:
        raise InputError(
            f"MUJOCO_GL={wanted}: MuJoCo cannot render with it here. Unset it to have {' and '.join(BACKENDS)} tried, "
            f"or: {install_line()}"
        )
    line = install_line()
    if install and os.geteuid() == 0 and shutil.which("apt-get"):
        _run_as_root(line)
        del os.environ[TRIED]
        if backend := choose_backend():
            return backend
        raise InputError(f"no GL library renders (tried {', '.join(BACKENDS)}), even after: {line}")
    raise InputError(f"no GL library renders (tried {', '.join(BACKENDS)}); pictures need one. As root: {line}")


def install_line(os_release: Path = Path("/etc/os-release")) -> str:
    """The one line that installs a GL library on this distribution."""
    names = _distribution(os_release)
    if names & {"debian", "ubuntu"}:
        return f"apt-get update && apt-get install -y --no-install-recommends {' '.join(PACKAGES)}"
    return f"install what your distribution calls Debian's {' '.join(PACKAGES)} (EGL, Mesa's software driver, OpenGL)"


def _distribution(os_release: Path) -> set[str]:
    """ID and ID_LIKE."""
    names: set[str] = set()
    if os_release.is_file():
        for line in os_release.read_text().splitlines():
            key, _, value = line.partition("=")
            if key in ("ID", "ID_LIKE"):
                names.update(shlex.split(value)[0].lower().split() if value else ())
    return names


def _renders(backend: str) -> bool:
    environment = os.environ | {"MUJOCO_GL": backend}
    environment.pop("PYOPENGL_PLATFORM", None)
    command = [sys.executable, "-c", PROBE]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        LOG.warning("MUJOCO_GL=%s: no picture after %d s", backend, PROBE_SECONDS)
        return False
    if done.returncode and "No module named 'mujoco'" in done.stderr:
        raise InputError("mujoco is not installed: pip install -r requirements.txt")
    if done.returncode:
        LOG.info("MUJOCO_GL=%s does not render: %s", backend, done.stderr.strip().rpartition("\n")[2])
    return done.returncode == 0


def _run_as_root(line: str) -> None:
    print(f"no GL library renders; running: {line}", file=sys.stderr, flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True)
    if done.returncode:
        tail = " / ".join((done.stdout + done.stderr).strip().splitlines()[-3:])
        raise InputError(f"no GL library renders, and this failed with exit code {done.returncode}: {line}\n{tail}")
