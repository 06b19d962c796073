"""The processor that exported policies share, against our own pipeline, for what EF-VLA does not read.

Boxes, depth, a second picture of a camera, prompts, windows that end at the present.
"""

import dataclasses
import importlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from data_pipelines.action_spaces import relative_pose
from data_pipelines.normalization import normalizer
from data_pipelines.transforms.boxes import GridBoxes
from tests.convert.conftest import DATASETS, random_statistics
from vla_jax.commands import export as export_command
from vla_jax.convert import parity
from vla_jax.convert.targets import hf
from vla_jax.language.prompts import PromptTemplate
from vla_jax.language.tokenizer import TokenizerConfig
from vla_jax.types import BoxRequirement, CameraRequirement, DataRequirements, DepthRequirement

SPACE = relative_pose.action_space(3, "gaussian")
PROMPT = PromptTemplate(template="In: {instruction}? Out:", last_token="Ġ")
READS = DataRequirements(
    action_space=SPACE,
    cameras=(
        CameraRequirement(slot="primary", height=24, width=32),
        CameraRequirement(slot="primary_high", height=48, width=40, source_slot="primary", filter="bilinear"),
        CameraRequirement(slot="wrist", height=16, width=16),
    ),
    window=3,
    window_anchor="last",
    text_length=24,
    boxes=BoxRequirement(count=4),
    depths=(DepthRequirement(slot="primary", height=12, width=20),),
)


@pytest.fixture(scope="module")
def processing():
    """The templates as a package, as `parity` imports an exported folder."""
    spec = importlib.machinery.ModuleSpec("shared_templates", None, is_package=True)
    spec.submodule_search_locations = [str(hf.TEMPLATES / hf.SHARED)]
    sys.modules["shared_templates"] = importlib.util.module_from_spec(spec)
    yield importlib.import_module("shared_templates.processing_vla")
    for name in [name for name in sys.modules if name.startswith("shared_templates")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def policy():
    """As much of a trained policy as `commands/export.py` asks for."""
    statistics = random_statistics()

    def normalize(kind, dataset):
        dimensions = SPACE.dimensions if kind == "action" else SPACE.proprio
        return normalizer("gaussian", statistics[dataset][kind], dimensions, "")

    return SimpleNamespace(
        config=SimpleNamespace(policy=SimpleNamespace(data_requirements=lambda: READS)),
        tokenizer=TokenizerConfig().build(READS.text_length, None, PROMPT),
        statistics=statistics,
        normalizer=normalize,
        act_unnormalized=lambda observation, dataset: [observation],
    )


@pytest.fixture
def make(processing, policy, tmp_path):
    def processor(needs=READS, prompt: PromptTemplate | None = PROMPT):
        policy.tokenizer.save(tmp_path)
        (tmp_path / "dataset_statistics.json").write_text(json.dumps(policy.statistics))
        (tmp_path / "preprocessor_config.json").write_text("{}")
        config = processing.VlaConfig(
            action_space=json.loads(json.dumps(dataclasses.asdict(SPACE))),
            requirements=hf._requirements(needs),
            prompt=None if prompt is None else dataclasses.asdict(prompt),
        )
        names = (processing.STATISTICS, processing.SETTINGS, *processing.TOKENIZER_FILES)
        return processing.VlaProcessor(config, {name: tmp_path / name for name in names})

    return processor


def leaves(tree, prefix=""):
    if isinstance(tree, dict):
        return {key: value for name in tree for key, value in leaves(tree[name], f"{prefix}/{name}").items()}
    return {prefix: np.asarray(tree)}


def test_it_prepares_what_our_pipeline_prepares(make, policy):
    for arguments, observation in export_command._predictions(policy):
        assert sorted(arguments["images"]) == ["primary", "wrist"]
        found, expected = leaves(make()(**arguments)), leaves(parity._to_torch(observation))
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(found["/timestep_mask"], [[False, False, True]])
        assert 0 < found["/box_masks"].sum() < READS.boxes.count, "a box too small, or all of them, is masked"


@pytest.mark.parametrize("text", ["Öffne die Schublade", "", "put the spoon in the pot " * 6])
def test_prompts_stand_around_the_text_and_are_never_cut(make, policy, text):
    ids, mask = make().tokenize([text])
    np.testing.assert_array_equal(ids, policy.tokenizer([text])[0])
    np.testing.assert_array_equal(mask, policy.tokenizer([text])[1])
    assert not np.array_equal(ids, make(prompt=None).tokenize([text])[0])


def test_boxes_that_nobody_gave_are_a_grid_or_refused(make):
    seen = {
        "images": {"primary": np.zeros((8, 8, 3), np.uint8)},
        "proprio": np.zeros((2, 10)),
        "instruction": "go",
        "unnorm_key": DATASETS[0],
    }
    seen["images"]["primary"] = [seen["images"]["primary"]] * 2
    grid = dataclasses.replace(READS, boxes=dataclasses.replace(READS.boxes, missing="grid"))
    batch = make(grid)(**seen)
    np.testing.assert_array_equal(batch["boxes"][0, 0], np.zeros((4, 4)))
    np.testing.assert_allclose(batch["boxes"][0, 1:], [GridBoxes(4)()] * 2)
    assert not batch["depth_masks"]["primary"].any()
    with pytest.raises(ValueError, match="boxes of objects in 'primary'"):
        make()(**seen)
    assert not make(grid)(**seen | {"images": {"wrist": seen["images"]["primary"]}})["box_masks"].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {"primary_high": np.zeros((8, 8, 3), np.uint8)}}, "unknown cameras"),
        ({"boxes": np.zeros((2, 1, 4))}, "2 sets of boxes"),
        ({"depths": {"wrist": np.zeros((8, 8), np.float32)}}, "unknown cameras"),
        ({"depths": {"primary": [np.zeros((8, 8), np.float32)] * 2}}, "2 depths"),
    ],
)
def test_unfit_inputs_are_refused(make, change, message):
    seen = {
        "images": {"primary": np.zeros((8, 8, 3), np.uint8)},
        "proprio": np.zeros(10),
        "instruction": "go",
        "unnorm_key": DATASETS[0],
        "boxes": np.zeros((0, 4)),
    }
    make()(**seen)
    with pytest.raises(ValueError, match=message):
        make()(**seen | change)


def test_random_inputs_have_all_that_is_asked_for_and_every_kind_of_padding():
    observations = list(parity.random_observations(READS, 512))
    assert all(o.timestep_mask[:, -1].all() and o.timestep_mask.shape[1] == READS.window for o in observations)
    assert any(not o.timestep_mask.all() for o in observations)
    boxes = np.concatenate([o.boxes[o.box_masks] for o in observations])
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    for masks in (
        np.concatenate([o.box_masks for o in observations]),
        np.concatenate([o.depth_masks["primary"] for o in observations]),
    ):
        assert 0.2 < masks.mean() < 0.9
    assert {tuple(o.images["primary_high"].shape[2:]) for o in observations} == {(48, 40, 3)}
