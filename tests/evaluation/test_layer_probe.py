"""The probe by layer: Grad-CAM and zeroed tokens against what they are by definition, its files, what it refuses."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import jsonschema
import matplotlib.image
import numpy as np
import pytest

from data_pipelines.action_spaces import relative_pose
from data_pipelines.boxes import Boxes, boxes_folder, write_boxes
from data_pipelines.config import DataConfig, MixtureEntry
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.sidecar import open_index
from tests.convert.conftest import run_config as ef_vla_run
from tests.convert.conftest import write_parameters
from vla_jax.config import RunConfig
from vla_jax.convert.parity import random_observations
from vla_jax.evaluation import layer_probe
from vla_jax.evaluation.layer_probe import LayerProbeConfig, Probe
from vla_jax.nn.stack import Taps
from vla_jax.policies import deepvision_vla, qwenvla_oft
from vla_jax.schemas import schema
from vla_jax.trained_policy import load_policy
from vla_jax.types import InputError

SPACE = relative_pose.action_space(2, "gaussian")
POLICIES = {
    "qwenvla_oft": qwenvla_oft.tiny(qwenvla_oft.qwenvla_oft(SPACE)),
    "deepvision_vla": deepvision_vla.tiny(deepvision_vla.deepvision_vla(SPACE)),
}


def _policy(folder, config, cache=None):
    data = DataConfig(root="data", mixture=(MixtureEntry(name="bridge_dataset"),), cache=cache)
    run = RunConfig(name="tiny", policy=config, data=data)
    return load_policy(write_parameters(folder, run, datasets=("bridge_dataset",)))


@pytest.fixture(scope="module", params=POLICIES)
def probe(request, tmp_path_factory):
    policy = _policy(tmp_path_factory.mktemp("probe") / "parameters", POLICIES[request.param])
    needs = policy.config.policy.data_requirements()
    observation = next(random_observations(needs, policy.tokenizer.vocab_size))
    masks = {slot: np.ones_like(mask) for slot, mask in observation.image_masks.items()}
    return Probe(policy), dataclasses.replace(observation, image_masks=masks)


def test_zeroing_acts_in_one_layer_alone_and_keeping_everything_changes_nothing(probe):
    probe, observation = probe
    parameters, layers = probe.policy.stored.parameters, probe.places.num_layers
    actions, everything = probe.policy.act(observation), np.ones((4, 16), bool)
    np.testing.assert_allclose(probe._zeroed(parameters, observation, np.int32(1), everything), actions, atol=1e-6)
    changed = [probe._zeroed(parameters, observation, np.int32(layer), ~everything) for layer in range(layers)]
    assert all(np.abs(one - actions).max() > 1e-5 for one in changed), "each layer's, the coupled ones' too"
    assert all(np.abs(changed[0] - other).max() > 1e-5 for other in changed[1:])
    beyond = probe._zeroed(parameters, observation, np.int32(layers), ~everything)
    np.testing.assert_allclose(beyond, actions, atol=1e-6)


def test_grad_cam_is_that_of_its_definition(probe):
    """One layer's, from the gradient of the sum of absolute actions there."""
    probe, observation = probe
    layer, parameters, places = 2, probe.policy.stored.parameters, probe.places

    def total(offset, parameters, observation):
        def edit(x, number):
            return x.at[:, probe.span].add(jnp.where(number == layer, offset, 0))

        return jnp.abs(probe.policy.structure.merge(parameters).act_edited(observation, edit)).sum()

    def tokens(parameters, observation):
        """What the layer reads; both policies run it alike."""
        model = probe.policy.structure.merge(parameters)
        read = model._read if hasattr(model, "_read") else model._sequence
        sequence, _ = read(observation)
        found = model.vlm.hidden(sequence.inputs, mask=sequence.mask, taps=Taps(), span=(0, layer))
        return found.tokens[:, probe.span]

    here = jax.jit(tokens)(parameters, observation)
    gradient = jax.jit(jax.grad(total))(jnp.zeros(here.shape), parameters, observation)
    expected = (gradient.mean(axis=1, keepdims=True) * here).sum(-1)
    actions, cams = probe._explained(parameters, observation)
    assert cams.shape == (places.num_layers, 4, 16)
    np.testing.assert_allclose(actions, probe.policy.act(observation), atol=1e-6)
    np.testing.assert_allclose(cams[layer], expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    elementwise = (gradient * here).sum(-1)
    assert np.abs(cams[layer] - elementwise).max() > 0.01 * np.abs(expected).max(), "another map, by the same name"


@pytest.fixture(scope="module")
def dataset(bridge_data):
    return bridge_data / "bridge_dataset" / "1.0.0"


@pytest.fixture(scope="module")
def evaluated(dataset, tmp_path_factory):
    """By boxes of the whole left half, which lie in the run's cache."""
    folder = tmp_path_factory.mktemp("evaluated")
    cache = folder / "cache"
    index = open_index(read_directory(dataset), "val", cache)
    steps = index.num_steps
    boxes = np.tile(np.array([0, 0, 0.5, 1], np.float32), (steps, 1, 1))
    found = Boxes(boxes, np.ones((steps, 1), bool), np.full(steps, -1, np.int32))
    write_boxes(boxes_folder(index, "primary", cache), index, found)
    policy = _policy(folder / "parameters", POLICIES["qwenvla_oft"], cache=str(cache))
    config = LayerProbeConfig(num_steps=5, batch_size=3, ratios=(0.5, 1.0), num_pictures=2)
    return policy, layer_probe.evaluate(policy, dataset, folder / "out", config), folder / "out"


def test_the_files_are_whole_and_the_numbers_say_something(evaluated):
    _, summary, out = evaluated
    jsonschema.validate(summary, schema("layer_probe"))
    assert json.loads((out / "summary.json").read_text()) == summary
    assert (summary["steps"], summary["region"], summary["region_share"]) == (5, "boxes", 0.5)
    assert np.shape(summary["zeroed_error"]) == (5, 2)
    assert np.min(summary["change"]) > 0
    inside = np.array(summary["grad_cam_in_region"])
    assert ((inside >= 0) & (inside <= 1)).all()
    assert np.ptp(inside) > 0
    for name in ("curves.png", "grad_cam_0.png", "grad_cam_1.png"):
        picture = matplotlib.image.imread(out / name)
        assert picture[..., :3].std() > 0.05, name


def test_without_boxes_the_region_is_where_grad_cam_is_highest():
    cam = np.array([[0.1, 0.5, 0.2, 0.2], [0.4, 0.3, 0.2, 0.1]])
    np.testing.assert_array_equal(layer_probe._highest(cam, 0.5), [[0, 1, 1, 0], [1, 1, 0, 0]])


def test_a_larger_share_of_a_region_has_the_smaller_one_in_it():
    region = np.array([[True, True, False, True, True, False]])
    order = np.array([3, 0, 5, 4, 1, 2])
    half, most, whole = (layer_probe._share_of(region, order, ratio) for ratio in (0.5, 0.75, 1.0))
    np.testing.assert_array_equal(half, [[True, False, False, True, False, False]])
    assert (half <= most).all()
    assert most.sum() == 3
    np.testing.assert_array_equal(whole, region)


def test_policies_without_a_language_model_to_probe_are_refused(tmp_path):
    policy = load_policy(write_parameters(tmp_path / "ef_vla", ef_vla_run()))
    with pytest.raises(InputError, match="cannot be probed by layer"):
        Probe(policy)


def test_impossible_probes_are_refused():
    for changes in ({"num_steps": 0}, {"ratios": ()}, {"ratios": (0.0,)}, {"region_share": 1.5}):
        with pytest.raises(InputError, match="layer probe"):
            LayerProbeConfig(**changes)
