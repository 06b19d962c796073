"""Tokenizers: a local `tokenizer.json`, or a small byte-level BPE where no vocabulary is at hand.

Read with `tokenizers`; transformers' AutoTokenizer would pull torch into training. Lower-casing and cleaning
are whatever `tokenizer.json` says. A text longer than `text_length` is cut so that the special tokens that
follow it (CLIP's end of text) stay last; a shorter one is padded on the right and masked there.

The built-in tokenizer frames a text like CLIP's does (start, text, end) but changes nothing in it: its bytes
come back exactly from the ids. Special tokens written out in a text are read as special tokens, as Hugging
Face does.
"""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import Bool, Int

from vla_jax.types import InputError

START, END, PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"
BUILT_IN_SPECIAL_TOKENS = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": PAD}
SPECIAL_TOKEN_KEYS = ("bos_token", "eos_token", "unk_token", "pad_token")

# The corpus of the built-in tokenizer: every combination of these, so that common robot words become one token.
VERBS = (
    "pick up", "put", "place", "move", "push", "pull", "open", "close", "stack", "unstack", "lift", "pour", "wipe",
    "fold", "unfold", "sweep", "turn on", "turn off", "rotate", "flip", "slide", "insert", "remove", "take", "press",
    "poke", "grasp", "release", "reach", "hang", "cover", "stir", "drop", "bring", "turn the faucet and", "touch",
)  # fmt: skip
COLORS = (
    "red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white", "silver", "wooden",
)  # fmt: skip
OBJECTS = (
    "block", "cube", "bowl", "plate", "cup", "mug", "pot", "pan", "lid", "spoon", "fork", "knife", "spatula", "towel",
    "cloth", "napkin", "drawer", "cabinet", "microwave", "stove", "oven", "fridge", "sink", "basket", "tray", "box",
    "bottle", "can", "carrot", "banana", "apple", "lemon", "eggplant", "corn", "mushroom", "sushi", "sponge", "brush",
    "button", "lever", "switch", "door", "ball", "cylinder", "arch", "triangle", "marker", "book", "toy", "burner",
)  # fmt: skip
RELATIONS = (
    "on the table", "into the drawer", "in the basket", "to the left of the plate", "to the right side of the bowl",
    "next to the stove", "behind the microwave", "in front of the robot gripper", "on top of the cabinet",
    "under the towel", "between the cups", "from the bottom right corner of the table", "near the edge", "away",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    path: str | None = None
    """A folder with `tokenizer.json`; None: the deterministic byte-level BPE of this file."""
    vocab_size: int = 512
    """Of the built-in tokenizer."""

    def build(self, text_length: int, max_vocab_size: int | None = None) -> "Tokenizer":
        """Args: text_length: number of ids a text becomes, special tokens included. max_vocab_size: of the reader."""
        if self.path is None:
            source, backend, special_tokens = "built-in tokenizer", _trained(self.vocab_size), BUILT_IN_SPECIAL_TOKENS
        else:
            source, backend, special_tokens = self.path, _read(Path(self.path)), _special_tokens(Path(self.path))
        tokenizer = Tokenizer(backend, special_tokens, text_length, source=source)
        if max_vocab_size is not None and tokenizer.vocab_size > max_vocab_size:
            raise InputError(
                f"{source}: its vocabulary has {tokenizer.vocab_size} tokens, the policy's text encoder knows "
                f"{max_vocab_size}; set --tokenizer.path to the vocabulary that the encoder was trained with"
            )
        return tokenizer


class Tokenizer:
    """Texts to padded ids and their mask: `vla_jax.types.Tokenize`."""

    def __init__(self, backend: tokenizers.Tokenizer, special_tokens: dict[str, str], text_length: int, *, source: str):
        """Args: special_tokens: by Hugging Face key (`pad_token`, ...). source: what error messages name."""
        pad = special_tokens.get("pad_token") or special_tokens.get("eos_token")
        pad_id = None if pad is None else backend.token_to_id(pad)
        if pad is None or pad_id is None:
            raise InputError(
                f"{source}: found pad_token={pad!r}, expected a token of tokenizer.json to pad with; "
                'add "pad_token" to tokenizer_config.json'
            )
        framing = backend.num_special_tokens_to_add(is_pair=False)
        if text_length <= framing:
            raise InputError(
                f"text_length={text_length}: {source} frames each text with {framing} special tokens; "
                f"at least {framing + 1} expected"
            )
        self.text_length = text_length
        self.special_tokens = special_tokens | {"pad_token": pad}
        self.pad_id = pad_id
        self.vocab_size = 1 + max(backend.get_vocab(with_added_tokens=True).values())
        """Rows that an embedding table needs."""
        backend.enable_truncation(text_length)
        backend.enable_padding(length=text_length, pad_id=pad_id, pad_token=pad)
        self._backend = backend

    def __call__(self, texts: list[str]) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        # One by one: encode_batch starts threads, which a data worker that forks later must not have.
        encodings = [self._backend.encode(text) for text in texts]
        shape = (len(texts), self.text_length)
        ids = np.array([encoding.ids for encoding in encodings], np.int32).reshape(shape)
        mask = np.array([encoding.attention_mask for encoding in encodings], bool).reshape(shape)
        return ids, mask

    def decode(self, ids: Int[np.ndarray, "t"]) -> str:
        """Text of the ids, special tokens written out."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=False)

    def save(self, folder: Path) -> None:
        """Writes the Hugging Face files; `AutoTokenizer` and `TokenizerConfig(path=folder)` give the same ids."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        plain = tokenizers.Tokenizer.from_str(self._backend.to_str())
        plain.no_truncation()
        plain.no_padding()
        settings = {
            # Not the class of the source: some classes rebuild the normalizer and ignore tokenizer.json.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.text_length,
            "padding_side": "right",
            "truncation_side": "right",
            "clean_up_tokenization_spaces": False,
            **self.special_tokens,
        }
        (folder / "tokenizer.json").write_text(plain.to_str(pretty=True), encoding="utf-8")
        for name, content in (("tokenizer_config.json", settings), ("special_tokens_map.json", self.special_tokens)):
            (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(folder: Path) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; tokenizer.path expects a folder with tokenizer.json "
            "(a folder with tokenizer.model or vocab.json alone must be converted first)"
        )
    try:
        return tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # `tokenizers` raises bare Exception
        raise InputError(f"{path}: not a readable tokenizer.json ({error}); fetch it again") from error


def _special_tokens(folder: Path) -> dict[str, str]:
    """Special tokens by key; `tokenizer_config.json` wins over `special_tokens_map.json`."""
    found = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: not readable JSON ({error}); fetch it again") from error
        for key in SPECIAL_TOKEN_KEYS:
            token = tree.get(key)
            token = token.get("content") if isinstance(token, dict) else token
            if token is not None:
                found[key] = token
    return found


def _corpus() -> list[str]:
    texts = [" ".join((verb, "the", thing)) for verb, thing in itertools.product(VERBS, OBJECTS)]
    texts += [
        f"put the {color} {thing} {where}" for color, thing, where in itertools.product(COLORS, OBJECTS, RELATIONS)
    ]
    return texts


def _trained(vocab_size: int) -> tokenizers.Tokenizer:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    special = [START, END, PAD]
    if vocab_size < len(alphabet) + len(special):
        raise InputError(
            f"tokenizer.vocab_size={vocab_size}: the built-in tokenizer needs {len(alphabet)} byte tokens and "
            f"{len(special)} special ones, at least {len(alphabet) + len(special)} expected"
        )
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(_corpus(), trainer)
    if backend.get_vocab_size() < vocab_size:
        raise InputError(
            f"tokenizer.vocab_size={vocab_size}: the built-in tokenizer's corpus gives {backend.get_vocab_size()} "
            "tokens at most; for a larger vocabulary name a folder in tokenizer.path"
        )
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(token, backend.token_to_id(token)) for token in (START, END)]
    )
    return backend
