"""The tokenizer against transformers' AutoTokenizer, and the built-in byte-level BPE."""

import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from vla_jax.language.tokenizer import END, START, TokenizerConfig
from vla_jax.types import InputError

TEXTS = [
    "put the red block into the drawer",
    "",
    "Pick   up\tthe CAFÉ\u0301 mug, don't drop it!",
    "把碗放到盘子上 🤖",
    "stack the cubes " * 20,
    f"say {END} and {START}",
    " 1234 leading space",
]
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def clip_backend() -> tokenizers.Tokenizer:
    """Laid out as the released CLIP files: lower-cased, `</w>` suffix, no pad token of its own."""
    special = [START, END]
    words = tokenizers.Regex(
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    )
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    backend.normalizer = tokenizers.normalizers.Sequence(
        [
            tokenizers.normalizers.NFC(),
            tokenizers.normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            tokenizers.normalizers.Lowercase(),
        ]
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(words, "removed", invert=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    backend.train_from_iterator([text.lower() for text in TEXTS], trainer)
    backend.post_processor = tokenizers.processors.RobertaProcessing(
        (END, backend.token_to_id(END)), (START, backend.token_to_id(START)), trim_offsets=False, add_prefix_space=False
    )
    return backend


@pytest.fixture
def clip_folder(tmp_path) -> Path:
    folder = tmp_path / "clip"
    folder.mkdir()
    clip_backend().save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": {"content": START, "__type": "AddedToken"},
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def ids_of_auto_tokenizer(folder: Path, texts: list[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encoded = theirs(texts, padding="max_length", truncation=True, max_length=length, return_tensors="np")
    return encoded["input_ids"], encoded["attention_mask"].astype(bool)


@pytest.mark.parametrize("length", [3, 16, 77])
def test_ids_and_mask_of_clip_files_equal_auto_tokenizer(clip_folder, length):
    ids, mask = TokenizerConfig(path=str(clip_folder)).build(length)(TEXTS)
    expected_ids, expected_mask = ids_of_auto_tokenizer(clip_folder, TEXTS, length)

    assert ids.dtype == np.int32
    assert mask.dtype == bool
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(mask, expected_mask)


def test_ids_equal_those_of_transformers_own_clip_tokenizer(tmp_path):
    from transformers import CLIPTokenizer

    model = json.loads(clip_backend().to_str())["model"]
    CLIPTokenizer(vocab=model["vocab"], merges=[tuple(m) for m in model["merges"]]).save_pretrained(tmp_path)

    ids, mask = TokenizerConfig(path=str(tmp_path)).build(16)(TEXTS)

    expected_ids, expected_mask = ids_of_auto_tokenizer(tmp_path, TEXTS, 16)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(mask, expected_mask)


def test_case_is_folded_only_where_tokenizer_json_says_so(clip_folder):
    clip = TokenizerConfig(path=str(clip_folder)).build(16)
    built_in = TokenizerConfig().build(16)

    assert clip(["Red"])[0].tolist() == clip(["red"])[0].tolist()
    assert built_in(["Red"])[0].tolist() != built_in(["red"])[0].tolist()


@pytest.mark.parametrize("source", ["built-in", "clip"])
def test_saved_folder_gives_the_same_ids_here_and_in_auto_tokenizer(source, clip_folder, tmp_path):
    ours = TokenizerConfig(path=None if source == "built-in" else str(clip_folder)).build(16)
    ours.save(tmp_path / "saved")
    again = TokenizerConfig(path=str(tmp_path / "saved")).build(16)

    ids, mask = ours(TEXTS)
    for other_ids, other_mask in (again(TEXTS), ids_of_auto_tokenizer(tmp_path / "saved", TEXTS, 16)):
        np.testing.assert_array_equal(ids, other_ids)
        np.testing.assert_array_equal(mask, other_mask)
    assert again.vocab_size == ours.vocab_size


def test_a_long_text_keeps_its_end_token_last(clip_folder):
    for config in (TokenizerConfig(), TokenizerConfig(path=str(clip_folder))):
        tokenizer = config.build(8)
        short, _ = tokenizer(["go"])
        end = short[0][tokenizer(["go"])[1][0].sum() - 1]
        ids, mask = tokenizer(["pick up the red block " * 9])

        assert ids[0, -1] == end
        assert mask.all()


def test_built_in_round_trips_any_text():
    rng = random.Random(0)
    texts = list(TEXTS)
    while len(texts) < 300:
        points = [rng.choice([rng.randrange(0x110000), rng.randrange(0x80)]) for _ in range(rng.randrange(20))]
        texts.append("".join(chr(p) for p in points if unicodedata.category(chr(p)) != "Cs"))
    tokenizer = TokenizerConfig().build(1024)

    for text in texts:
        ids, mask = tokenizer([text])
        assert tokenizer.decode(ids[0][mask[0]][1:-1]) == text


def test_built_in_is_the_same_to_the_byte_in_every_build_and_process(tmp_path):
    code = "import sys; from vla_jax.language.tokenizer import *; TokenizerConfig().build(16).save(Path(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "other"], check=True, env=os.environ | {"PYTHONHASHSEED": "7"}
    )
    for name in ("one", "two"):
        TokenizerConfig().build(16).save(tmp_path / name)

    for file in FILES:
        contents = {(tmp_path / name / file).read_bytes() for name in ("one", "two", "other")}
        assert len(contents) == 1, file


def test_ids_stay_below_vocab_size():
    for size in (259, 300, 512):
        tokenizer = TokenizerConfig(vocab_size=size).build(64)
        ids, _ = tokenizer(TEXTS)
        assert tokenizer.vocab_size == size
        assert ids.max() < size


def test_no_texts_give_empty_arrays():
    ids, mask = TokenizerConfig().build(16)([])
    assert ids.shape == mask.shape == (0, 16)


def test_reading_a_vocabulary_imports_neither_torch_nor_transformers(clip_folder):
    code = (
        "import sys; from vla_jax.language.tokenizer import *; TokenizerConfig(path=sys.argv[1]).build(9)(['a']);"
        "assert not {'torch', 'transformers', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, clip_folder], check=True)


def test_missing_folder_names_the_file(tmp_path):
    with pytest.raises(InputError, match=r"nowhere/tokenizer\.json: no such file"):
        TokenizerConfig(path=str(tmp_path / "nowhere")).build(16)


@pytest.mark.parametrize("content", ["", "{", "{}", "version https://git-lfs.github.com/spec/v1\n"])
def test_unreadable_tokenizer_json_is_an_input_error(clip_folder, content):
    (clip_folder / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json: not a readable"):
        TokenizerConfig(path=str(clip_folder)).build(16)


def test_unreadable_tokenizer_config_is_an_input_error(clip_folder):
    (clip_folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer_config\.json: not readable JSON"):
        TokenizerConfig(path=str(clip_folder)).build(16)


def test_folder_without_a_pad_token_is_refused(clip_folder):
    (clip_folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InputError, match="pad_token"):
        TokenizerConfig(path=str(clip_folder)).build(16)


@pytest.mark.parametrize("size", [100, 258, 100_000])
def test_built_in_refuses_vocabularies_it_cannot_make(size):
    with pytest.raises(InputError, match=f"vocab_size={size}"):
        TokenizerConfig(vocab_size=size).build(16)


def test_text_length_without_room_for_text_is_refused():
    with pytest.raises(InputError, match="text_length=2"):
        TokenizerConfig().build(2)


def test_a_vocabulary_larger_than_the_encoder_is_refused():
    with pytest.raises(InputError, match="512 tokens, the policy's text encoder knows 400"):
        TokenizerConfig(vocab_size=512).build(16, 400)
