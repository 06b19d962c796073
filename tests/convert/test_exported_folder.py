"""The exported folder in the hands of a PyTorch user: loading, predicting, fine-tuning, saving, what it refuses."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers
from flax import nnx
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.spatial.transform import Rotation

from data_pipelines.action_spaces import relative_pose
from data_pipelines.normalization import normalizer
from data_pipelines.transforms.resize import Resize
from tests.convert.conftest import DATASETS, run_config, write_parameters
from vla_jax.__main__ import main
from vla_jax.parameters import abstract
from vla_jax.trained_policy import load_policy
from vla_jax.types import Batch, Observation


def load(folder: Path, **options):
    return transformers.AutoModel.from_pretrained(folder, trust_remote_code=True, **options)


@pytest.fixture(scope="module")
def model(exported):
    return load(exported)


def training_batch(model, seed: int = 0) -> dict:
    """Three windows of different lengths with targets, as a user's data loader would make them."""
    generator = torch.Generator().manual_seed(seed)
    size, window = 3, model.config.window
    horizon, width = model.config.chunk_shape
    valid = torch.arange(window) < torch.tensor([window, 2, 1])[:, None]
    ids, mask = model.processor.tokenize(["put the spoon in the pot", "open the drawer", ""])

    def pictures():
        shape = (size, window, model.config.image_size, model.config.image_size, 3)
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) * valid[..., None, None, None]

    return {
        "images": {slot: pictures() for slot in model.config.cameras},
        "image_masks": dict.fromkeys(model.config.cameras, valid),
        "proprio": torch.randn(size, window, 10, generator=generator),
        "timestep_mask": valid,
        "input_ids": ids,
        "attention_mask": mask,
        "action": torch.randn(size, window, horizon, width, generator=generator),
        "action_mask": valid[..., None, None].expand(-1, -1, horizon, width),
    }


def train(model, batch, steps: int = 20, rate: float = 3e-3) -> list[float]:
    torch.manual_seed(0)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


# ---- loading and predicting

CONSUMER = """
    import sys

    class Without:
        # The import system of a machine where these were never installed.
        absent = {"jax", "jaxlib", "flax", "orbax", "grain", "tensorflow", "vla_jax", "data_pipelines"}

        def __init__(self, finder):
            self.finder = finder

        def __getattr__(self, name):
            return getattr(self.finder, name)

        def find_spec(self, name, path=None, target=None):
            return None if name.split(".")[0] in self.absent else self.finder.find_spec(name, path, target)

    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
    import numpy as np, transformers
    given = np.load("observation.npz")
    model = transformers.AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
    chunk = model.predict_action(
        images={"primary": given["primary"], "wrist": given["wrist"]},
        proprio=given["proprio"],
        instruction=str(given["instruction"]),
        unnorm_key=str(given["unnorm_key"]),
    )
    np.save("chunk.npy", chunk)
    assert not Without.absent & set(sys.modules)
"""


def test_it_predicts_as_we_do_where_neither_jax_nor_our_packages_can_be_imported(
    exported, parameter_folder, observation, tmp_path
):
    arrays = {name: value for name, value in observation.items() if name != "images"}
    np.savez(tmp_path / "observation.npz", **arrays, **observation["images"])
    (tmp_path / "consumer.py").write_text(textwrap.dedent(CONSUMER))
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-I", "consumer.py", str(exported)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

    policy, key = load_policy(parameter_folder), observation["unnorm_key"]
    space, statistics = policy.config.action_space, policy.statistics[key]["proprio"]
    proprio = normalizer(space.normalization, statistics, space.proprio, "")(observation["proprio"])
    tokens, mask = policy.tokenizer([observation["instruction"]])
    ours = policy.act_unnormalized(
        Observation(
            images={slot: Resize(32, 32)(picture)[None, None] for slot, picture in observation["images"].items()},
            image_masks={slot: np.ones((1, 1), bool) for slot in observation["images"]},
            proprio=proprio[None, None],
            timestep_mask=np.ones((1, 1), bool),
            instruction_tokens=tokens,
            instruction_mask=mask,
        ),
        key,
    )[0]
    found = np.load(tmp_path / "chunk.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, ours, rtol=0, atol=1e-5 * np.abs(ours).max())


def test_pictures_words_and_proprio_all_move_the_actions(model, observation):
    chunk = model.predict_action(**observation)
    images = observation["images"]
    for changed in (
        {"images": {slot: np.zeros_like(picture) for slot, picture in images.items()}},
        {"images": {slot: np.full_like(picture, 255) for slot, picture in images.items()}},
        {"images": {"primary": images["primary"]}},
        {"instruction": "open the drawer"},
        {"proprio": observation["proprio"] + 0.1},
    ):
        assert np.abs(model.predict_action(**observation | changed) - chunk).max() > 1e-3 * np.abs(chunk).max()


def test_predicting_is_deterministic_and_leaves_a_model_in_training_mode(model, observation):
    model.train()
    first = model.predict_action(**observation)
    assert model.training
    model.eval()
    np.testing.assert_array_equal(first, model.predict_action(**observation))


def test_pil_pictures_and_histories_are_taken(model, observation):
    chunk = model.predict_action(**observation)
    pil = {slot: Image.fromarray(picture) for slot, picture in observation["images"].items()}
    np.testing.assert_array_equal(model.predict_action(**observation | {"images": pil}), chunk)
    past = {slot: [255 - picture, picture] for slot, picture in observation["images"].items()}
    proprio = np.stack([observation["proprio"] + 0.2, observation["proprio"]])
    with_past = model.predict_action(**observation | {"images": past, "proprio": proprio})
    assert with_past.shape == chunk.shape
    assert np.abs(with_past - chunk).max() > 1e-4


def test_padding_on_the_right_changes_nothing(model, observation):
    batch = model.processor(**observation)
    alone = model(**batch).actions[0, 0]
    padded = {
        "images": {slot: torch.cat([images, 0 * images], 1) for slot, images in batch["images"].items()},
        "image_masks": {slot: torch.tensor([[True, False]]) for slot in batch["images"]},
        "proprio": torch.cat([batch["proprio"], 9 + batch["proprio"]], 1),
        "timestep_mask": torch.tensor([[True, False]]),
    }
    torch.testing.assert_close(model(**batch | padded).actions[0, 0], alone, rtol=1e-5, atol=1e-5)


def test_the_loss_is_ours(model, parameter_folder):
    batch = training_batch(model)
    policy = load_policy(parameter_folder)
    structure = abstract(lambda: policy.config.policy.build(nnx.Rngs(0)))
    ours = Batch(
        observation=Observation(
            images={slot: jnp.asarray(images.numpy()) for slot, images in batch["images"].items()},
            image_masks={slot: jnp.asarray(mask.numpy()) for slot, mask in batch["image_masks"].items()},
            proprio=jnp.asarray(batch["proprio"].numpy()),
            timestep_mask=jnp.asarray(batch["timestep_mask"].numpy()),
            instruction_tokens=jnp.asarray(batch["input_ids"].numpy(), jnp.int32),
            instruction_mask=jnp.asarray(batch["attention_mask"].numpy()),
        ),
        action=jnp.asarray(batch["action"].numpy()),
        action_mask=jnp.asarray(batch["action_mask"].numpy()),
        sample_ids=jnp.zeros((3, 3), jnp.int32),
    )
    loss = jax.jit(lambda parameters: structure.merge(parameters).loss(ours, key=None).total)(policy.stored.parameters)
    assert model(**batch).loss.item() == pytest.approx(float(loss), rel=1e-5)


# ---- fine-tuning and saving


@pytest.mark.parametrize("everything", [False, True])
def test_20_steps_on_a_batch_lower_its_loss(exported, everything):
    model = load(exported)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"clip"}
    if everything:
        model.requires_grad_(True)
    losses = train(model, training_batch(model))
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
    changed = [
        name for name, parameter in model.named_parameters() if name in frozen and (parameter != frozen[name]).any()
    ]
    assert bool(changed) is everything


def test_lora_trains_saves_loads_and_merges(exported, observation, tmp_path):
    settings = peft.LoraConfig(r=4, target_modules="all-linear", modules_to_save=["action_head"])
    model = peft.get_peft_model(load(exported), settings)
    before = model.predict_action(**observation)
    batch = training_batch(model)
    losses = train(model, batch, rate=1e-2)
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
    tuned = model.predict_action(**observation)
    assert np.abs(tuned - before).max() > 1e-2
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(load(exported), tmp_path / "adapter")
    np.testing.assert_array_equal(again.predict_action(**observation), tuned)
    merged = again.merge_and_unload()
    np.testing.assert_allclose(merged.predict_action(**observation), tuned, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    reloaded = load(tmp_path / "merged").predict_action(**observation)
    np.testing.assert_array_equal(reloaded, merged.predict_action(**observation))


def test_saving_and_loading_changes_no_bit(model, exported, observation, tmp_path):
    model.save_pretrained(tmp_path / "again")
    first, second = load_file(exported / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name].view(torch.int32), second[name].view(torch.int32)) for name in first)
    chunk = model.predict_action(**observation)
    again = load(tmp_path / "again").predict_action(**observation)
    # Equal weights at other places in memory: sums are rounded as the processor's alignment has it.
    np.testing.assert_allclose(again, chunk, rtol=0, atol=1e-6 * np.abs(chunk).max())


def test_bfloat16_runs_and_stays_close(exported, observation, model):
    chunk = model.predict_action(**observation)
    half = load(exported, dtype=torch.bfloat16)
    assert next(half.parameters()).dtype == torch.bfloat16
    assert np.abs(half.predict_action(**observation) - chunk).max() < 0.1 * np.abs(chunk).max()


# ---- the processor against the data pipeline


def test_the_processor_loads_alone_and_prepares_as_training_does(exported, parameter_folder):
    processor = transformers.AutoProcessor.from_pretrained(exported, trust_remote_code=True)
    policy = load_policy(parameter_folder)
    picture = np.random.default_rng(0).integers(0, 256, (97, 61, 3), np.uint8)
    np.testing.assert_array_equal(processor.resize(picture), Resize(32, 32)(picture))
    texts = ["put the spoon in the pot", "", "Öffne die Schublade " * 20]
    ids, mask = processor.tokenize(texts)
    np.testing.assert_array_equal(ids, policy.tokenizer(texts)[0])
    np.testing.assert_array_equal(mask, policy.tokenizer(texts)[1])


@pytest.mark.parametrize("mode", ["none", "gaussian", "bounds", "quantile"])
def test_normalisation_is_the_pipelines(exported, mode):
    processor = transformers.AutoProcessor.from_pretrained(exported, trust_remote_code=True)
    processor.config.action_space["normalization"] = mode
    for name, noise in {"std": 3e-5, "min": -1e-4, "max": 1e-4, "q01": -7e-5, "q99": 7e-5}.items():
        processor.statistics[DATASETS[1]]["action"][name][7] = noise  # a rotation that hardly moves
    space = run_config(normalization=mode).action_space
    numbers = np.random.default_rng(0).normal(size=(50, 10)).astype(np.float32) * 3
    ours = normalizer(mode, processor.statistics[DATASETS[1]]["action"], space.dimensions, "")
    normalized = processor.normalize_action(numbers, DATASETS[1])
    np.testing.assert_allclose(normalized, ours(numbers), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        processor.unnormalize_action(normalized, DATASETS[1]), ours.inverse(ours(numbers)), rtol=1e-6, atol=1e-6
    )
    if mode == "gaussian":
        moving = np.arange(10) != 4
        assert np.abs(normalized[:, 7]).max() < 1e5, "noise was blown up"
        back = processor.unnormalize_action(normalized, DATASETS[1])
        np.testing.assert_allclose(back[:, moving], numbers[:, moving], rtol=1e-5, atol=1e-6)


def test_relative_chunks_become_absolute_poses(model):
    generator = np.random.default_rng(1)
    chunk, proprio = generator.normal(size=(5, 10)), generator.normal(size=10)
    position, rotation, gripper = model.processor.absolute_poses(chunk, proprio)
    here = Rotation.from_matrix(relative_pose.rows_to_matrix(proprio[None, 3:9])[0])
    pose = np.concatenate([proprio[:3], here.as_quat()])
    expected, openness = relative_pose.absolute(chunk, pose)
    np.testing.assert_allclose(position, expected[:, :3], atol=1e-5)
    np.testing.assert_allclose(rotation, Rotation.from_quat(expected[:, 3:]).as_matrix(), atol=1e-5)
    np.testing.assert_allclose(gripper, openness, atol=1e-6)


# ---- what it refuses


def test_several_datasets_need_an_unnorm_key(model, observation):
    for key in (None, "droid"):
        with pytest.raises(ValueError, match=r"bridge_dataset.*fractal20220817_data"):
            model.predict_action(**observation | {"unnorm_key": key})


def test_one_dataset_needs_none(observation, tmp_path):
    folder = write_parameters(tmp_path / "parameters", run_config(), datasets=("only",))
    assert main(["export", "--checkpoint", str(folder), "--out", str(tmp_path / "out")]) == 0
    model, arguments = load(tmp_path / "out"), observation | {"unnorm_key": None}
    np.testing.assert_array_equal(
        model.predict_action(**arguments), model.predict_action(**arguments | {"unnorm_key": "only"})
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {}}, "no picture"),
        ({"images": {"overhead": np.zeros((4, 4, 3), np.uint8)}}, "unknown cameras"),
        ({"images": {"primary": np.zeros((4, 4, 3), np.float32)}}, "uint8 RGB"),
        ({"images": {"primary": [np.zeros((4, 4, 3), np.uint8)] * 2}}, "2 pictures"),
        ({"proprio": np.zeros(7)}, "gripper"),
        ({"proprio": np.full(10, np.nan)}, "finite"),
        ({"proprio": np.zeros((9, 10)), "images": {"primary": [np.zeros((4, 4, 3), np.uint8)] * 9}}, "window of 9"),
    ],
)
def test_unfit_observations_are_refused(model, observation, change, message):
    with pytest.raises(ValueError, match=message):
        model.predict_action(**observation | change)


def test_a_damaged_folder_does_not_load(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "folder")
    tensors = load_file(folder / "model.safetensors")
    del tensors["trunk_norm.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"trunk_norm\.bias"):
        load(folder)


def test_the_code_runs_only_when_trusted(exported):
    assert json.loads((exported / "config.json").read_text())["auto_map"]
    with pytest.raises(ValueError, match="trust_remote_code"):
        transformers.AutoModel.from_pretrained(exported, trust_remote_code=False)
