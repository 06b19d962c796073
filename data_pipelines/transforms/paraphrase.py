"""Other words for the same instruction, from a local file.

The file is JSON, `{"instruction": ["other words", ...], ...}`. Octo keeps them in a pickle that it fetches while the
graph is built; here nothing is fetched and nothing is executed.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from vla_jax.types import InputError


@dataclasses.dataclass(frozen=True)
class Paraphrase:
    wordings: dict[str, list[str]]
    """By instruction."""
    share: float = 0.5
    """Probability that one of the wordings takes an instruction's place."""

    def __call__(self, text: str, generator: np.random.Generator) -> str:
        """Itself where the file does not know it."""
        wordings = self.wordings.get(text)
        is_replaced, choice = generator.random() < self.share, generator.random()
        return wordings[int(choice * len(wordings))] if wordings and is_replaced else text


def read_wordings(path: Path) -> dict[str, list[str]]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no readable JSON ({error}); data.task.paraphrases names such a file") from error
    if not isinstance(tree, dict):
        raise InputError(
            f"{path}: found a {type(tree).__name__}, expected an object of instruction -> list of wordings"
        )
    for instruction, wordings in tree.items():
        if not isinstance(wordings, list) or not all(isinstance(text, str) and text for text in wordings):
            raise InputError(
                f"{path}: {instruction!r}: found {wordings!r}, expected a list of texts that are not empty"
            )
    return tree
