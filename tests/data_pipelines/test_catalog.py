"""The page on all datasets."""

from pathlib import Path

from data_pipelines.catalog import page
from data_pipelines.discovery import dataset_files, specs
from data_pipelines.unsupported import UNSUPPORTED

PAGE = Path(__file__).resolve().parents[2] / "docs" / "oxe.md"


def test_the_committed_page_is_what_the_files_say():
    assert PAGE.read_text() == page(), "run: python -m data_pipelines datasets > docs/oxe.md"


def test_page_has_every_dataset_every_difference_and_everything_unknown():
    text = page()
    for module in dataset_files().values():
        sentences = (*getattr(module, "DIFFERENCES", ()), *module.SPEC.unknown)
        for said in (*sentences, *(f"`{spec.name}`" for spec in specs(module))):
            assert said in text
    assert all(f"`{name}`" in text for name in UNSUPPORTED)


def test_a_robot_has_one_spelling():
    """Statistics of an embodiment merge the datasets that name the same robot."""
    spellings: dict[str, set[str]] = {}
    for module in dataset_files().values():
        for spec in specs(module):
            bare = spec.robot.lower().replace(" ", "").replace("emika", "").replace("rethink", "")
            spellings.setdefault(bare, set()).add(spec.robot)
    assert all(len(names) == 1 for names in spellings.values())
