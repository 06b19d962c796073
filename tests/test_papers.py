"""docs/papers.md leads somewhere: every file and every test that it names is there."""

import re

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "papers.md").read_text()
FILES = sorted(set(re.findall(r"[\w/]+\.py\b", PAGE)))
TESTS = sorted(set(re.findall(r"\btest_\w+(?:\.\.\.)?(?!\.py)(?=[`.,(\s])", PAGE)))


def paths() -> set[str]:
    found = set()
    for folder in ("vla_jax", "configs", "benchmarks", "data_pipelines", "tests"):
        found |= {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")}
    return found | {"eval.py", "train.py"}


@pytest.fixture(scope="module")
def functions() -> set[str]:
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    return set(re.findall(r"def (test_\w+)", sources))


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_named_is_there(file):
    assert any(path == file or path.endswith(f"/{file}") for path in paths()), f"docs/papers.md names {file}"


@pytest.mark.parametrize("name", TESTS)
def test_a_test_that_is_named_is_there(name, functions):
    start = name.removesuffix("...")
    matches = [
        function for function in functions if function == start or ("..." in name and function.startswith(start))
    ]
    assert matches, f"docs/papers.md names {name}"


def test_the_page_names_many():
    assert len(FILES) > 30
    assert len(TESTS) > 40
