"""Every command line of the README and of docs/scaling.md is one that the programs take, up to the files it names."""

import argparse
import re
import shlex

import pytest

import eval as evaluation
import train
from data_pipelines import __main__ as data_pipelines_main
from tests.conftest import ROOT
from vla_jax import __main__ as vla_jax_main
from vla_jax import recipe

DOCUMENTS = ("README.md", "docs/scaling.md")
PROGRAMS = re.compile(r"(?:\.venv/bin/)?python (?:-m (?:vla_jax|data_pipelines)|train\.py|eval\.py) ")


def command_lines(document: str) -> list[str]:
    """Of the code blocks; lines that go on are joined, and one inside quotes of another command is taken out."""
    blocks = re.findall(r"^```\w*\n(.*?)^```\n", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = [line[match.start() :] for line in lines if (match := PROGRAMS.search(line))]
    return [re.split(r'\s(?:#|>|&&)\s|"\s*$', line)[0].strip() for line in found]


LINES = [(document, line) for document in DOCUMENTS for line in command_lines(document)]


def check(line: str, monkeypatch) -> None:
    """Parses it as its program does. Raises InputError, or exits, where the program would refuse it."""
    words = shlex.split(line.removeprefix(".venv/bin/"))[1:]
    if words[0] == "train.py":
        train.parse(words[1:])
    elif words[0] == "eval.py":
        evaluation.parse(words[1:])
    else:
        main = {"vla_jax": vla_jax_main, "data_pipelines": data_pipelines_main}[words[1]]
        seen = run_nothing(main, words[2], monkeypatch)
        assert main.main(words[2:]) == 0
        ((_, overrides),) = seen
        if overrides:
            recipe.override(recipe.load(words[words.index("--config") + 1]), overrides, program=words[1])


def run_nothing(main, command, monkeypatch) -> list[tuple[argparse.Namespace, list[str]]]:
    """The command only says how it was called; `launch`, which starts nothing, really runs."""
    seen: list = []
    module = __import__(f"{main.commands.__name__}.{command}", fromlist=["run"])
    really = module.run if command == "launch" else lambda options: 0
    monkeypatch.setattr(module, "run", lambda options: seen.append((options, options.overrides)) or really(options))
    return seen


@pytest.mark.parametrize(("document", "line"), LINES, ids=[f"{document}-{i}" for i, (document, _) in enumerate(LINES)])
def test_a_documented_command_is_one_that_the_program_takes(document, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    check(line, monkeypatch)


def test_the_documents_have_commands():
    assert {document for document, _ in LINES} == set(DOCUMENTS)
    assert len(LINES) > 15


@pytest.mark.parametrize(
    "line",
    [
        "python train.py --config configs/ef_vla_bridge.py --no-such-key 1",
        "python eval.py --checkpoint runs/first --out x",
        "python -m vla_jax export --checkpoint runs/first",
        "python -m data_pipelines index",
    ],
)
def test_a_wrong_line_is_caught(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((SystemExit, train.InputError)):
        check(line, monkeypatch)
