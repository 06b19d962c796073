"""`eval.py --attention-maps`: pictures of what each word looks at, of one run and of two."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

import eval as eval_command
from data_pipelines.action_spaces import relative_pose
from tests.convert.conftest import DATASETS, random_statistics, write_parameters
from tests.convert.conftest import run_config as convert_config
from vla_jax.evaluation import attention
from vla_jax.policies import ef_vla
from vla_jax.trained_policy import load_policy

DATASET = DATASETS[0]


def run_config(preset=ef_vla.ef_vla, cameras=("primary",)):
    config = convert_config(preset)
    policy = ef_vla.tiny(preset(relative_pose.action_space(5, "gaussian")))
    return dataclasses.replace(config, policy=dataclasses.replace(policy, cameras=cameras))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    assert DATASET in random_statistics()
    return write_parameters(tmp_path_factory.mktemp("parameters") / "frozen", run_config())


def test_pictures_of_two_runs_show_both_views_of_each(folder, bridge_data, tmp_path):
    other = write_parameters(tmp_path / "tuned", run_config(ef_vla.ef_ft_clip))
    dataset, out = bridge_data / DATASET / "1.0.0", tmp_path / "out"
    options = ["--checkpoint", folder, "--attention-maps", dataset, "--num-pictures", 2]
    assert eval_command.main([str(o) for o in (*options, "--out", out / "one")]) == 0
    assert eval_command.main([str(o) for o in (*options, "--against", other, "--out", out / "two")]) == 0
    sizes = {name: Image.open(out / name / "attention_1.png").size for name in ("one", "two")}
    assert sorted(path.name for path in (out / "two").iterdir() if path.suffix == ".png") == [
        "attention_0.png",
        "attention_1.png",
    ]
    assert sizes["two"][1] > 1.7 * sizes["one"][1], "X_attn and X_out of each run are rows"
    first, second = (np.asarray(Image.open(out / "one" / f"attention_{i}.png")) for i in range(2))
    assert first.shape != second.shape or (first != second).any(), "episodes differ"


def test_views_are_distributions_that_differ_between_x_attn_and_x_out(folder, bridge_data, tmp_path):
    policy = load_policy(folder)
    episodes = attention._open(policy, bridge_data / DATASET / "1.0.0", str(tmp_path), "val")
    steps = list(episodes.first_steps(2))
    assert [(int(episode), int(step)) for ((episode, step),) in (s.ids for s in steps)] == [(0, 0), (1, 0)]
    views = attention._views(policy)(steps[0].observation)
    for maps in views.values():
        np.testing.assert_allclose(maps["primary"].sum(axis=(-1, -2)), 1, rtol=1e-5)
    assert np.abs(views["X_attn"]["primary"] - views["X_out"]["primary"]).max() > 1e-3
    look = jax.jit(lambda parameters, seen: policy.structure.merge(parameters).attention_maps(seen))
    own = look(policy.stored.parameters, steps[0].observation)
    np.testing.assert_allclose(views["X_attn"]["primary"], own["primary"], atol=1e-6)


def test_runs_of_different_cameras_are_refused(folder, bridge_data, tmp_path, capsys):
    other = write_parameters(tmp_path / "wrist", run_config(cameras=("wrist",)))
    options = ["--checkpoint", folder, "--attention-maps", bridge_data / DATASET / "1.0.0", "--against", other]
    assert eval_command.main([str(o) for o in (*options, "--out", tmp_path / "out")]) == 2
    assert "different cameras" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
