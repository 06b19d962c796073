"""EF-VLA in the layout of its published PyTorch code, Max-Fu/otter: `OTTER.state_dict()`, tensor by tensor.

    FOLDER/model.safetensors     as that code loads it: OTTER(...).load_state_dict(load_file(...)), strict
    FOLDER/otter.json            the arguments of its ModelConfig and SharedConfig
    FOLDER/*.py, config.json     our own code around the same names, which the comparison with JAX runs

Only the preset `otter_torch` and what differs from it in sizes has this layout. Facts that carry over: cameras count in
the order of their names; f_t there is text, cameras, proprio, so the columns of its projection are put in that order;
position codes are stored beside the parameters.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla_jax.convert.export import Export
from vla_jax.convert.save import disk_arrays, save
from vla_jax.convert.targets import hf
from vla_jax.types import InputError

TEMPLATES = Path(__file__).with_suffix("")
NAME = "otter"
MAX_POSITIONS = 32
THETA = 10_000.0
EXPECTED: dict[str, Any] = {
    "train_clip": False,
    "scratch_vision": None,
    "clip_features": {"type": "ClipTokens", "last_attention": "qk", "double_text_norm": False, "padding": "zero"},
    "fusion": {
        "type": "EarlyFusionConfig",
        "temperature": "plain",
        "learn_temperature": True,
        "value_positions": True,
        "position_layout": "halves",
    },
    "image_pooling": {"type": "AttentionPoolingConfig", "residual": "normed", "final_norm": True, "activation": "gelu"},
    "text_pooling": {"type": "AttentionPoolingConfig", "residual": "normed", "final_norm": True, "activation": "gelu"},
    "trunk": {"positions": "rotary_backwards", "final_norm": False, "activation": "gelu"},
    "head": {"activation": "relu"},
}
"""What the published code computes, in the words of the policy's settings; what is not here may be anything."""
CLIP_NAMES = {(768, 32): "ViT-B/32", (768, 16): "ViT-B/16", (1024, 14): "ViT-L/14"}
"""By width and patch size of the vision half."""


def write(folder: Path, export: Export) -> None:
    _refuse_others(export)
    export = dataclasses.replace(export, policy=NAME)
    for template in [*sorted(TEMPLATES.glob("*.py")), *hf.shared_templates(TEMPLATES)]:
        shutil.copyfile(template, folder / template.name)
    save(folder, tensors(export))
    export.save_tokenizer(folder)
    hf.write_settings(folder, export, frozen=["clip_model."])
    (folder / "otter.json").write_text(json.dumps(_published_arguments(export), indent=2) + "\n", encoding="utf-8")


write_report = hf.write_report


def tensors(export: Export) -> Iterator[tuple[str, np.ndarray]]:
    settings = hf.cleaned(export.settings)
    cameras = {slot: number for number, slot in enumerate(sorted(settings["cameras"]))}
    for name, array in disk_arrays(NAME, export.parameters):
        module, _, rest = name.partition(".")
        if module in ("visual_extraction", "vision_poolings"):
            slot, _, rest = rest.partition(".")
            name = f"{module}.{cameras[slot]}.{rest}"
        yield name, array[:, _columns(settings)] if name == "input_projection.weight" else array
    yield from _position_codes(settings)


def _columns(settings: Mapping[str, Any]) -> np.ndarray:
    """Where each of their step token's entries lies in ours: proprio, cameras as they are listed, text."""
    cameras, image = settings["cameras"], settings["image_pooling"]["out_width"]
    start = settings["proprio"]["out_width"]
    place = {slot: np.arange(image) + start + number * image for number, slot in enumerate(cameras)}
    text = np.arange(settings["text_pooling"]["out_width"]) + start + len(cameras) * image
    return np.concatenate([text, *(place[slot] for slot in sorted(cameras)), np.arange(start)])


def _position_codes(settings: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """As the published code keeps them: sines in the first half, cosines in the second."""
    vision, trunk = settings["clip"]["vision"], settings["trunk"]
    num_patches, width = (vision["image_size"] // vision["patch_size"]) ** 2, settings["clip"]["projection_width"]
    for number in range(len(settings["cameras"])):
        yield f"visual_extraction.{number}.pos_emb", _sinusoid(num_patches, width)
    head_width = trunk["width"] // trunk["num_heads"]
    for layer in range(trunk["num_layers"]):
        rope = f"policy.layers.{layer}.attention.rope"
        yield f"{rope}.inv_freq", _frequencies(head_width)
        yield f"{rope}.emb", _sinusoid(MAX_POSITIONS, head_width)


def _frequencies(width: int) -> np.ndarray:
    return (THETA ** (-np.arange(0, width, 2) / width)).astype(np.float32)


def _sinusoid(length: int, width: int) -> np.ndarray:
    angles = np.arange(length)[:, None] * THETA ** (-np.arange(0, width, 2) / width)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def _refuse_others(export: Export) -> None:
    settings = hf.cleaned(export.settings)
    differing = [] if export.policy == "ef_vla" else ["policy"]
    if not differing:
        differing = sorted(_differences(settings, EXPECTED))
        if settings["trunk"]["width"] is None:
            differing.append("trunk.width")
        elif settings["trunk"]["mlp_width"] % settings["trunk"]["width"]:
            differing.append("trunk.mlp_width")
        if len((settings["proprio"] or {}).get("hidden_widths", ())) != 2:
            differing.append("proprio.hidden_widths")
        if settings["head"]["hidden_widths"] != [settings["trunk"]["width"]]:
            differing.append("head.hidden_widths")
        if settings["text_mask"] == "valid":
            differing.append("text_mask")
    if differing:
        raise InputError(
            f"--to otter: {differing} of this policy are not as the published PyTorch code has them; the preset "
            "otter_torch of ef_vla is. `--to hf` exports every policy"
        )


def _differences(found: Any, expected: Any, key: str = "") -> Iterator[str]:
    if not isinstance(expected, dict):
        if found != expected:
            yield key
    elif not isinstance(found, dict):
        yield key
    else:
        for name, value in expected.items():
            yield from _differences(found.get(name), value, f"{key}.{name}" if key else name)


def _published_arguments(export: Export) -> dict[str, Any]:
    settings, space = hf.cleaned(export.settings), export.requirements.action_space
    vision, trunk, pooling = settings["clip"]["vision"], settings["trunk"], settings["image_pooling"]
    return {
        "model": {
            "clip_model": CLIP_NAMES.get((vision["width"], vision["patch_size"])),
            "num_readouts": pooling["num_queries"],
            "proprio_input_dim": space.proprio_width,
            "proprio_hidden_dim": settings["proprio"]["hidden_widths"][0],
            "proprio_output_dim": settings["proprio"]["out_width"],
            "text_pooling_output_dim": settings["text_pooling"]["out_width"],
            "first_k_tokens": export.requirements.text_length,
            "vision_pooling_output_dim": pooling["out_width"] * len(settings["cameras"]),
            "pooling_heads": pooling["num_heads"],
            "pooling_layers": pooling["num_blocks"],
            "action_dim": space.action_width,
            "max_position_embeddings": MAX_POSITIONS,
            "transformer_layers": trunk["num_layers"],
            "transformer_heads": trunk["num_heads"],
            "transformer_dim": trunk["width"],
            "transformer_expansion_factor": trunk["mlp_width"] // trunk["width"],
            "pool_true_text": settings["text_mask"] == "words",
        },
        "shared": {
            "camera_keys": [f"image_{slot}" for slot in sorted(settings["cameras"])],
            "seq_length": export.requirements.window,
            "action_horizon": space.horizon,
            "image_size": vision["image_size"],
        },
    }
