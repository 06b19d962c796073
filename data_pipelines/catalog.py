"""The page on all datasets, `docs/oxe.md`, made from their files."""

from collections.abc import Iterable
from types import ModuleType

from data_pipelines.discovery import dataset_files, specs
from data_pipelines.spec import DatasetSpec
from data_pipelines.unsupported import UNSUPPORTED

HEAD = """# Datasets

Made by `python -m data_pipelines datasets > docs/oxe.md` from the files of `data_pipelines/datasets`, not by hand.

A dataset lies in `ROOT/NAME/VERSION`. `depth` marks cameras with depth pictures. A unit of `unknown`, and an empty
rate or number of episodes, mean that nobody has published it. Names in brackets have the same tree and the same file.
A name with `?` has a tree that is not published: its file reads the keys that OpenVLA's or Octo's code reads.
"""
COLUMNS = ("name", "robot", "cameras", "action", "unit of the motion", "state", "gripper", "Hz", "episodes", "version")


def page() -> str:
    files = dataset_files()
    return "\n".join(
        [
            HEAD,
            *_table(files),
            "\n## What OpenVLA's and Octo's code does otherwise\n",
            "A mixture entry with `standardization` set to `upstream` reproduces the values that differ; instructions "
            "and dropped cameras stay as here.\n",
            *(line for module in files.values() for line in _differences(module)),
            "\n## What is not published\n",
            *(line for module in files.values() for line in _unknown(module)),
            "\n## Datasets without a file\n",
            *(f"- `{name}`: {reason}." for name, reason in sorted(UNSUPPORTED.items())),
            "",
        ]
    )


def _table(files: dict[str, ModuleType]) -> list[str]:
    rows = [_row(module.SPEC, _aliases(module)) for module in files.values()]
    return [_line(COLUMNS), _line(["---"] * len(COLUMNS)), *map(_line, rows)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _aliases(module: ModuleType) -> str:
    others = [_name(spec) for spec in specs(module)[1:]]
    return f" ({', '.join(others)})" if others else ""


def _name(spec: DatasetSpec) -> str:
    return f"`{spec.name}`" + ("" if spec.is_verified else "?")


def _row(spec: DatasetSpec, aliases: str) -> tuple[str, ...]:
    cameras = [f"{slot} depth" if slot in spec.depths else slot for slot in spec.cameras]
    return (
        _name(spec) + aliases,
        spec.robot,
        ", ".join(cameras),
        spec.action.replace("_", " "),
        spec.delta_unit if spec.action.startswith("gripper") else "",
        spec.proprio.replace("_", " "),
        spec.gripper,
        "" if spec.rate_hertz is None else f"{spec.rate_hertz:g}",
        ", ".join(f"{split} {count}" for split, count in spec.episodes.items()),
        spec.version,
    )


def _differences(module: ModuleType) -> list[str]:
    return _sentences(module.SPEC, getattr(module, "DIFFERENCES", ()))


def _unknown(module: ModuleType) -> list[str]:
    """Those of an alias only where they are not its file's."""
    own, *aliases = specs(module)
    return [
        line
        for spec in (own, *(a for a in aliases if a.unknown != own.unknown))
        for line in _sentences(spec, spec.unknown)
    ]


def _sentences(spec: DatasetSpec, sentences: tuple[str, ...]) -> list[str]:
    return [f"- `{spec.name}`: {' '.join(sentences)}"] if sentences else []
