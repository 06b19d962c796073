"""Tokenizers: a local `tokenizer.json`, or a small byte-level BPE where no vocabulary is at hand.

Read with `tokenizers`; transformers' AutoTokenizer would pull torch into training. Lower-casing and cleaning
are whatever `tokenizer.json` says, and so are start and end tokens; of `tokenizer_config.json` only the special tokens
count. A text longer than `text_length` is cut so that the special tokens that follow it (CLIP's end of text) stay last;
a shorter one is padded on the right and masked there. Both are on the right whatever the files say: a sequence's
positions start at its first token.

The ids are AutoTokenizer's but for one case: of Llama-2's own files transformers 5 rebuilds the normalizer, which
changes texts with blanks in front and those right after special tokens; here, as in transformers 4, with which
published VLAs were trained, the file counts.

The built-in tokenizer frames a text like CLIP's does (start, text, end) but changes nothing in it: its bytes
come back exactly from the ids. Special tokens written out in a text are read as special tokens, as Hugging
Face does.
"""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Bool, Int

from vla_jax.language.prompts import PromptTemplate
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
    pad_token: str | None = None
    """In place of the one that the folder names. Llama-2's names none; `</s>` or `<unk>` serve: padding is masked."""

    def build(
        self, text_length: int, max_vocab_size: int | None = None, prompt: PromptTemplate | None = None
    ) -> "Tokenizer":
        """Args: text_length: number of ids a text becomes, special tokens and prompt included. max_vocab_size: of the
        reader. prompt: what each text is put into.
        """
        if self.path is None:
            source, backend, special_tokens = "built-in tokenizer", _trained(self.vocab_size), BUILT_IN_SPECIAL_TOKENS
        else:
            source = self.path
            backend, special_tokens = _read(Path(self.path))
        if self.pad_token is not None:
            special_tokens = special_tokens | {"pad_token": self.pad_token}
        tokenizer = Tokenizer(backend, special_tokens, text_length, prompt=prompt, source=source)
        if max_vocab_size is not None and tokenizer.vocab_size > max_vocab_size:
            raise InputError(
                f"{source}: its vocabulary has {tokenizer.vocab_size} tokens, the policy's text encoder knows "
                f"{max_vocab_size}; set --tokenizer.path to the vocabulary that the encoder was trained with"
            )
        return tokenizer


class Tokenizer:
    """Texts to padded ids and their mask: `vla_jax.types.Tokenize`."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: dict[str, str],
        text_length: int,
        *,
        prompt: PromptTemplate | None = None,
        source: str,
    ):
        """Args: special_tokens: by Hugging Face key (`pad_token`, ...). source: what error messages name."""
        self.text_length = text_length
        self.special_tokens = special_tokens
        self.pad_id = _pad_id(backend, special_tokens, source)
        self.vocab_size = 1 + max(backend.get_vocab(with_added_tokens=True).values())
        """Rows that an embedding table needs."""
        self._prompt, self._last = prompt, _last_ids(backend, prompt, source)
        self._backend = backend
        backend.no_padding()
        backend.no_truncation()
        framing = len(self._whole(""))
        if text_length <= framing:
            frame = f"{framing} special tokens" if prompt is None else f"a prompt of {framing} tokens"
            raise InputError(
                f"text_length={text_length}: {source} frames each text with {frame}; at least {framing + 1} expected"
            )
        if prompt is None:
            backend.enable_truncation(text_length)

    def __call__(self, texts: list[str]) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        ids = np.full((len(texts), self.text_length), self.pad_id, np.int32)
        mask = np.zeros(ids.shape, bool)
        # One by one: encode_batch starts threads, which a data worker that forks later must not have.
        for row, row_mask, text in zip(ids, mask, texts):
            found = self._fitting(text)
            row[: len(found)], row_mask[: len(found)] = found, True
        return ids, mask

    def _fitting(self, text: str) -> list[int]:
        """Where a prompt stands around the text, words at its end give way, so that what follows it is never cut."""
        ids = self._whole(text)
        words = text.split(" ")[: self.text_length]
        while len(ids) > self.text_length:
            words.pop()
            ids = self._whole(" ".join(words))
        return ids

    def _whole(self, text: str) -> list[int]:
        ids = self._backend.encode(text if self._prompt is None else self._prompt.text(text)).ids
        return ids if ids[-len(self._last) :] == self._last else ids + self._last

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


def _pad_id(backend: tokenizers.Tokenizer, special_tokens: dict[str, str], source: str) -> int:
    pad = special_tokens.get("pad_token")
    if pad is None:
        others = sorted({token for key, token in special_tokens.items() if key in ("eos_token", "unk_token")})
        raise InputError(
            f"{source}: tokenizer_config.json names no pad_token, and shorter texts have to be padded with one; choose "
            f"one by --tokenizer.pad-token{f', for instance one of {others}: padding is masked' if others else ''}"
        )
    pad_id = backend.token_to_id(pad)
    if pad_id is None:
        raise InputError(f"{source}: found pad_token={pad!r}, expected a token of tokenizer.json to pad with")
    return pad_id


def _last_ids(backend: tokenizers.Tokenizer, prompt: PromptTemplate | None, source: str) -> list[int]:
    if prompt is None or prompt.last_token is None:
        return []
    last = backend.token_to_id(prompt.last_token)
    if last is None:
        raise InputError(
            f"{source}: found no token {prompt.last_token!r}, expected one, for the prompt ends with it; set "
            "--tokenizer.path to the vocabulary of the language model that the prompt was made for"
        )
    return [last]


def _read(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The tokenizer as AutoTokenizer would set it up, and its special tokens by key."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; tokenizer.path expects a folder with tokenizer.json "
            "(a folder with tokenizer.model or vocab.json alone must be converted first)"
        )
    try:
        backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # `tokenizers` raises bare Exception
        raise InputError(f"{path}: not a readable tokenizer.json ({error}); fetch it again") from error
    settings = _settings(folder)
    special_tokens = {key: token for key in SPECIAL_TOKEN_KEYS if (token := _content(settings.get(key))) is not None}
    further = [_content(token) for token in settings.get("additional_special_tokens") or ()]
    added = {_content(token): int(i) for i, token in settings.get("added_tokens_decoder", {}).items()}
    for token in dict.fromkeys([*special_tokens.values(), *further, *added]):
        found = backend.token_to_id(token)
        if found is None or found != added.get(token, found):
            raise InputError(
                f"{folder / 'tokenizer_config.json'}: it names the token {token!r}, expected as id "
                f"{added.get(token, 'of any value')}, found {found} in tokenizer.json; fetch both again"
            )
    known = {added_token.content for added_token in backend.get_added_tokens_decoder().values()}
    backend.add_special_tokens([token for token in [*special_tokens.values(), *further] if token not in known])
    return backend, special_tokens


def _settings(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json` over `special_tokens_map.json`."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: not readable JSON ({error}); fetch it again") from error
        if not isinstance(tree, dict):
            raise InputError(f"{path}: found a {type(tree).__name__}, expected an object; fetch it again")
        settings |= {key: value for key, value in tree.items() if value is not None}
    return settings


def _content(token: Any) -> Any:
    """A token's text, however it is written down."""
    return token.get("content") if isinstance(token, dict) else token


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
