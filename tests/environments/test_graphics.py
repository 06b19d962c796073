"""The choice of a GL backend, with the trial of each replaced."""

import os
import sys

import pytest

from vla_jax.environments import graphics
from vla_jax.types import InputError


@pytest.fixture
def machine(monkeypatch):
    """A machine where nothing was chosen, and `works` says which backends render."""
    state = type("Machine", (), {"works": set(), "tried": []})()

    def renders(backend):
        state.tried.append(backend)
        return backend in state.works

    monkeypatch.setattr(graphics, "_renders", renders)
    for name in ("MUJOCO_GL", graphics.TRIED):
        monkeypatch.setenv(name, "")  # so that what is chosen here is taken back
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    return state


def test_egl_comes_first_then_osmesa(machine):
    machine.works = {"egl", "osmesa"}
    assert graphics.choose_backend() == "egl"
    assert os.environ["MUJOCO_GL"] == "egl"
    assert machine.tried == ["egl"]


def test_osmesa_where_egl_does_not_render(machine):
    machine.works = {"osmesa"}
    assert graphics.choose_backend() == "osmesa"
    assert machine.tried == ["egl", "osmesa"]


def test_the_choice_is_made_once(machine):
    machine.works = {"egl"}
    graphics.choose_backend()
    graphics.choose_backend()
    assert machine.tried == ["egl"]


def test_what_the_user_set_is_tried_alone(machine, monkeypatch):
    machine.works = {"egl"}
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert graphics.choose_backend() is None
    assert machine.tried == ["osmesa"]
    with pytest.raises(InputError, match="MUJOCO_GL=osmesa"):
        graphics.require_backend()


def test_without_a_library_nothing_is_chosen_and_the_line_is_named(machine):
    assert graphics.choose_backend() is None
    with pytest.raises(InputError, match="As root: "):
        graphics.require_backend()


def test_that_nothing_renders_is_found_out_once(machine, monkeypatch):
    """Also when MuJoCo was imported since, for its states alone."""
    assert graphics.choose_backend() is None
    monkeypatch.setitem(sys.modules, "mujoco", object())
    assert graphics.choose_backend() is None
    assert machine.tried == ["egl", "osmesa"]


def test_mujoco_imported_too_early_is_an_error(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", object())
    with pytest.raises(InputError, match="before a GL backend was chosen"):
        graphics.choose_backend()


def test_as_root_the_line_is_run_once(machine, monkeypatch):
    ran = []
    monkeypatch.setattr(graphics.os, "geteuid", lambda: 0)
    monkeypatch.setattr(graphics.shutil, "which", lambda _: "/usr/bin/apt-get")

    def install(line):
        ran.append(line)
        machine.works = {"egl"}

    monkeypatch.setattr(graphics, "_run_as_root", install)
    assert graphics.require_backend(install=True) == "egl"
    assert ran == [graphics.install_line()]
    assert graphics.require_backend(install=True) == "egl"
    assert len(ran) == 1


def test_another_user_is_told_the_line(machine, monkeypatch):
    monkeypatch.setattr(graphics.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(graphics, "_run_as_root", lambda line: pytest.fail(f"ran {line}"))
    with pytest.raises(InputError, match="no GL library renders"):
        graphics.require_backend(install=True)


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ('ID=debian\nVERSION_ID="12"\n', "apt-get install -y --no-install-recommends libegl1"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "apt-get install"),
        ("ID=fedora\n", "what your distribution calls"),
        ("", "what your distribution calls"),
    ],
)
def test_the_line_is_the_distributions(tmp_path, release, expected):
    file = tmp_path / "os-release"
    file.write_text(release)
    assert expected in graphics.install_line(file)
    assert "libgl1-mesa-dri libopengl0" in graphics.install_line(file)


def test_a_real_backend_is_tried_in_a_process_of_its_own(gl_backend):
    assert graphics._renders(gl_backend)
    assert not graphics._renders("no_such_backend")
