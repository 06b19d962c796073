"""Arguments as a shell and as Kubernetes read them. Every word stays on one line, so that files may indent it."""

import shlex
from collections.abc import Iterable

_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def shell_word(text: str) -> str:
    """One word of a bash command line."""
    if text.isprintable():
        return shlex.quote(text)
    escaped = (_ESCAPES.get(c, c if c.isprintable() else f"\\U{ord(c):08x}") for c in text)
    return f"$'{''.join(escaped)}'"


def shell_words(words: Iterable[str]) -> str:
    return " ".join(map(shell_word, words))


def kubernetes_word(text: str) -> str:
    """One of a container's `args`, where `$(NAME)` would be a variable and `$$` is a dollar."""
    return text.replace("$", "$$")
