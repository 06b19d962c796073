"""The Hugging Face folder of a policy: config, weights, code, tokenizer, processor, statistics, model card.

`hf/POLICY/*.py` is copied as it stands, and of `hf/shared` what it imports; `families/POLICY.py` names the tensors. A
part with a table of its own (CLIP) lies in the module of its prefix under that table's names.

config.json has the policy's settings, a class of ours named by its own name alone under `type`; `requirements`, what
the policy reads; `prompt`; `frozen`. `hf/shared/modeling_vla.py` says what a policy's PyTorch code adds.
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla_jax.convert import model_card
from vla_jax.convert.export import Export
from vla_jax.convert.save import disk_arrays, save
from vla_jax.types import DataRequirements, InputError

TEMPLATES = Path(__file__).with_suffix("")
SHARED = "shared"
PROCESSOR = "processing_vla.VlaProcessor"
IMPORTED = re.compile(r"^from \.(\w+) import", re.MULTILINE)
NOT_EXPORTED = ("remat", "schema_version")
"""Keys of the training configuration that mean nothing in PyTorch; those that end in `_weights` are local paths."""
RESIZE = {"library": "Pillow", "antialias": True, "keep_aspect_ratio": False}


def write(folder: Path, export: Export) -> None:
    """Everything but what needs the comparison: parity.json and the model card."""
    for template in templates(export.policy):
        shutil.copyfile(template, folder / template.name)
    save(folder, tensors(export, export.parameters))
    export.save_tokenizer(folder)
    write_settings(folder, export, frozen=_frozen_prefixes(export))


def write_settings(folder: Path, export: Export, *, frozen: list[str]) -> None:
    """Args: frozen: prefixes of the names of tensors that do not train."""
    _write_json(folder / "config.json", _config(export) | {"frozen": frozen})
    _write_json(folder / "preprocessor_config.json", _processor(export))
    _write_json(folder / "dataset_statistics.json", export.statistics)


def templates(policy: str) -> list[Path]:
    """The policy's own files, and those shared ones that they and one another import."""
    files = sorted((TEMPLATES / policy).glob("*.py"))
    if not files:
        known = sorted(folder.name for folder in TEMPLATES.iterdir() if folder.is_dir() and folder.name != SHARED)
        raise InputError(f"--to hf: no PyTorch code for policy {policy!r}; there is for {known}")
    return sorted([*files, *shared_templates(TEMPLATES / policy)], key=lambda path: path.name)


def shared_templates(folder: Path) -> list[Path]:
    """The shared files that those of a folder of code, and one another, import."""
    own = {path.stem: path for path in folder.glob("*.py")}
    found = dict(own)
    while missing := {name for path in found.values() for name in IMPORTED.findall(path.read_text())} - found.keys():
        found |= {name: TEMPLATES / SHARED / f"{name}.py" for name in missing}
    return [found[name] for name in sorted(found.keys() - own.keys())]


def write_report(folder: Path, export: Export, parity: dict[str, Any], *, adapter: str = "") -> None:
    """Args: adapter: as of `model_card.text`."""
    _write_json(folder / "parity.json", parity)
    (folder / "README.md").write_text(model_card.text(export, parity, adapter=adapter), encoding="utf-8")


def tensors(export: Export, parameters: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Name and tensor of every parameter, in the export's layout."""
    own = dict(parameters)
    for prefix, family in export.parts.items():
        part = {path: own.pop(path) for path in parameters if path.startswith(f"{prefix}/")}
        yield from disk_arrays(family, part, prefix=prefix, disk_prefix=f"{prefix}.")
    if own:  # OpenVLA has none
        yield from disk_arrays(export.policy, own)


def _config(export: Export) -> dict[str, Any]:
    name, cls = export.policy, export.class_name
    return {
        "architectures": [f"{cls}Model"],
        "auto_map": {
            "AutoConfig": f"configuration_{name}.{cls}Config",
            "AutoModel": f"modeling_{name}.{cls}Model",
            "AutoProcessor": _processor_class(export),
        },
        "model_type": name,
        "dtype": "float32",
        "requirements": _requirements(export.requirements),
        "prompt": export.prompt,
        **cleaned(export.settings),
    }


def _requirements(needs: DataRequirements) -> dict[str, Any]:
    return {
        "cameras": [
            {"slot": c.slot, "source": c.source, "height": c.height, "width": c.width, "filter": c.filter}
            for c in needs.cameras
        ],
        "window": needs.window,
        "window_anchor": needs.window_anchor,
        "text_length": needs.text_length,
        "boxes": None if needs.boxes is None else dataclasses.asdict(needs.boxes),
        "depths": [dataclasses.asdict(depth) for depth in needs.depths],
    }


def _processor_class(export: Export) -> str:
    """The policy's own, where it has one."""
    name = f"processing_{export.policy}"
    return f"{name}.{export.class_name}Processor" if (TEMPLATES / export.policy / f"{name}.py").is_file() else PROCESSOR


def _processor(export: Export) -> dict[str, Any]:
    cameras = export.requirements.cameras
    return {
        "auto_map": {"AutoProcessor": _processor_class(export)},
        "resize": RESIZE | {"resample": {camera.slot: camera.filter for camera in cameras}},
        "size": {camera.slot: {"height": camera.height, "width": camera.width} for camera in cameras},
    }


def _frozen_prefixes(export: Export) -> list[str]:
    """Modules frozen as a whole, and single frozen tensors of the others."""
    flags = {path: np.broadcast_to(path in export.frozen, array.shape) for path, array in export.parameters.items()}
    frozen = {name: bool(flag.all()) for name, flag in tensors(export, flags)}
    modules = {name.partition(".")[0] for name in frozen}
    whole = {
        module for module in modules if all(flag for name, flag in frozen.items() if name.startswith(f"{module}."))
    }
    single = [name for name, flag in frozen.items() if flag and name.partition(".")[0] not in whole]
    return sorted(f"{module}." for module in whole) + sorted(single)


def cleaned(tree: Any) -> Any:
    if isinstance(tree, dict):
        kept = {key: value for key, value in tree.items() if key not in NOT_EXPORTED and not key.endswith("_weights")}
        return {key: value.rpartition(":")[2] if key == "type" else cleaned(value) for key, value in kept.items()}
    return [cleaned(item) for item in tree] if isinstance(tree, list) else tree


def _write_json(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree, indent=2, allow_nan=False) + "\n", encoding="utf-8")
