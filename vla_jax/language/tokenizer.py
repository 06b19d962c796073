"""Tokenizers: a local `tokenizer.json`, or a small byte-level BPE where no vocabulary is at hand.

Read with `tokenizers`; transformers' AutoTokenizer would pull torch into training.
"""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    path: str | None = None
    """A folder with `tokenizer.json`; None: the deterministic byte-level BPE of this file."""
    vocab_size: int = 512
    """Of the built-in tokenizer."""
