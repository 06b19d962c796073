"""Llama- and Qwen-style folders, made here, against transformers' AutoTokenizer; OpenVLA's prompt on the first."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from vla_jax.language.prompts import OPENVLA, OPENVLA_V01, PromptTemplate
from vla_jax.language.tokenizer import TokenizerConfig
from vla_jax.types import InputError

TEXTS = [
    "put the red block into the drawer",
    "",
    " ",
    "  two leading blanks, a tab\tand a\nnewline ",
    "Pick up the CAFÉ\u0301 mug, don't drop it! 1234",
    "把碗放到盘子上 🤖 \u00a0ẞ",
    "stack the cubes " * 60,
]
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>")
CORPUS = ["▁put▁the▁red▁block▁into▁the▁drawer", "▁What▁action▁should▁the▁robot▁take▁to▁pick▁up", "In:▁Out:"]


def write(folder: Path, backend: tokenizers.Tokenizer, settings: dict) -> Path:
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def llama_backend(size: int | None = None) -> tokenizers.Tokenizer:
    """Laid out as Llama-2's: <unk> <s> </s>, 256 bytes, merges; with `size` filled up so that ▁ is 29871."""
    base = tokenizers.Tokenizer(models.BPE())
    base.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=90, show_progress=False))
    trained = json.loads(base.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learnt = sorted(trained["vocab"], key=trained["vocab"].get)
    if size is not None:
        learnt.remove("▁")
        fill = [f"⟨{number}⟩" for number in range(size)]
        tokens += learnt
        tokens += fill[: 29871 - len(tokens)] + ["▁"]
        tokens += fill[-(size - len(tokens)) :]
    else:
        tokens += learnt
    model = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[tuple(merge) for merge in trained["merges"]],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in tokens[:3]])
    return backend


LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 2048}


@pytest.fixture(params=["LlamaTokenizer", "LlamaTokenizerFast"])
def llama_folder(request, tmp_path) -> Path:
    settings = LLAMA | {"tokenizer_class": request.param, "add_bos_token": True, "add_eos_token": False}
    return write(tmp_path / "llama", llama_backend(), settings)


@pytest.fixture
def old_llama_folder(tmp_path) -> Path:
    """As it was first released: the blank is prepended by a normalizer, and the class is told to be legacy."""
    backend = llama_backend()
    backend.pre_tokenizer = None
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return write(tmp_path / "old_llama", backend, LLAMA | {"tokenizer_class": "LlamaTokenizer", "legacy": True})


@pytest.fixture
def qwen_folder(tmp_path) -> Path:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(QWEN_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CHAT])
    added = {str(backend.token_to_id(token)): {"content": token, "special": True} for token in CHAT}
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "additional_special_tokens": list(CHAT[1:]),
        "added_tokens_decoder": added,
    }
    return write(tmp_path / "qwen", backend, settings)


def check_against_auto_tokenizer(config: TokenizerConfig, texts: list[str], length: int) -> np.ndarray:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(config.path, local_files_only=True, padding_side="right")
    theirs.pad_token = config.pad_token or theirs.pad_token
    encoded = theirs(texts, padding="max_length", truncation=True, max_length=length, return_tensors="np")
    ids, mask = config.build(length)(texts)
    np.testing.assert_array_equal(ids, encoded["input_ids"])
    np.testing.assert_array_equal(mask, encoded["attention_mask"].astype(bool))
    return ids


@pytest.mark.parametrize("length", [3, 24, 128])
def test_llama_files_give_auto_tokenizers_ids(llama_folder, length):
    config = TokenizerConfig(path=str(llama_folder), pad_token="</s>")
    ids = check_against_auto_tokenizer(config, [*TEXTS, "stop </s> go<s>on"], length)
    assert (ids[:, 0] == 1).all()
    assert not (ids == 0).any(), "bytes stand in for what the vocabulary lacks"


def test_first_released_llama_files_give_auto_tokenizers_ids(old_llama_folder):
    texts = [text for text in TEXTS if not text.startswith(" ")]
    config = TokenizerConfig(path=str(old_llama_folder), pad_token="<unk>")
    check_against_auto_tokenizer(config, texts, 64)
    with pytest.raises(AssertionError):  # transformers 5 does not read the file's normalizer
        check_against_auto_tokenizer(config, ["  two blanks"], 64)


@pytest.mark.parametrize("length", [1, 24, 128])
def test_qwen_files_give_auto_tokenizers_ids(qwen_folder, length):
    chat = "<|im_start|>user\n<|vision_start|><|image_pad|>pick it up<|im_end|>\n"
    ids = check_against_auto_tokenizer(TokenizerConfig(path=str(qwen_folder)), [*TEXTS, chat], length)
    if length > 1:
        backend = tokenizers.Tokenizer.from_file(str(qwen_folder / "tokenizer.json"))
        assert ids[-1, 0] == backend.token_to_id("<|im_start|>")
        assert (ids[-1] == backend.token_to_id("<|image_pad|>")).sum() == 1
        assert (ids[1] == backend.token_to_id("<|endoftext|>")).all()


def test_the_frame_is_tokenizer_jsons_whatever_the_configuration_says(llama_folder):
    file = llama_folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"add_eos_token": True}))
    ids = check_against_auto_tokenizer(TokenizerConfig(path=str(llama_folder), pad_token="<unk>"), TEXTS, 16)
    assert not (ids == 2).any()


@pytest.mark.parametrize("folder", ["old_llama_folder", "qwen_folder"])
def test_a_saved_folder_gives_the_same_ids(folder, request, tmp_path):
    source = request.getfixturevalue(folder)
    ours = TokenizerConfig(path=str(source), pad_token="</s>" if "llama" in folder else None).build(24)
    ours.save(tmp_path / "saved")
    texts = [*TEXTS, "<|im_start|>a</s>b"]
    expected = check_against_auto_tokenizer(TokenizerConfig(path=str(tmp_path / "saved")), texts, 24)
    np.testing.assert_array_equal(ours(texts)[0], expected)


def test_a_folder_without_a_pad_token_says_which_would_do(llama_folder):
    with pytest.raises(
        InputError, match=r"no pad_token.*--tokenizer\.pad-token, for instance one of \['</s>', '<unk>'"
    ):
        TokenizerConfig(path=str(llama_folder)).build(16)
    with pytest.raises(InputError, match=r"found pad_token='<pad>', expected a token of tokenizer\.json"):
        TokenizerConfig(path=str(llama_folder), pad_token="<pad>").build(16)


@pytest.mark.parametrize(
    "change",
    [
        {"added_tokens_decoder": {"5": {"content": "<|im_end|>"}}},
        {"additional_special_tokens": ["<|video_pad|>"]},
        {"eos_token": "</s>"},
    ],
)
def test_a_configuration_of_another_vocabulary_is_refused(change, qwen_folder):
    file = qwen_folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=r"tokenizer_config\.json: it names the token"):
        TokenizerConfig(path=str(qwen_folder)).build(16)


# OpenVLA's prompt.


def test_prompts_are_the_published_ones():
    assert OPENVLA.text("Put the {Red} Block in") == (
        "In: What action should the robot take to put the {red} block in?\nOut:"
    )
    assert OPENVLA_V01.text("Lift") == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: What action should the robot take to lift? "
        "ASSISTANT:"
    )


@pytest.mark.parametrize("prompt", [OPENVLA, OPENVLA_V01])
def test_a_prompt_ends_with_token_29871(prompt, tmp_path):
    folder = write(tmp_path / "llama", llama_backend(32_000), LLAMA | {"tokenizer_class": "LlamaTokenizer"})
    tokenizer = TokenizerConfig(path=str(folder), pad_token="<unk>").build(256, 32_000, prompt)
    assert tokenizer.vocab_size == 32_000
    instruction = "Pick up the red block"
    ids, mask = tokenizer([instruction, ""])
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for row, row_mask, text in zip(ids, mask, [instruction, ""]):
        assert row[row_mask].tolist() == [*theirs(prompt.text(text))["input_ids"], 29871]
    assert not mask.all()


def test_what_already_ends_with_the_last_token_gets_no_second(tmp_path):
    folder = write(tmp_path / "llama", llama_backend(32_000), LLAMA)
    spaced = PromptTemplate(template="Out: {instruction}", last_token="▁")
    ids, mask = TokenizerConfig(path=str(folder), pad_token="<unk>").build(32, prompt=spaced)([" "])
    assert ids[0][mask[0]][-1] == 29871
    assert ids[0][mask[0]][-2] != 29871


def test_words_of_a_long_instruction_give_way_to_the_end_of_the_prompt(llama_folder):
    config = TokenizerConfig(path=str(llama_folder), pad_token="<unk>")
    whole = config.build(4096, prompt=OPENVLA)
    short = config.build(100, prompt=OPENVLA)
    words = ["block"] * 300
    ids, mask = short([" ".join(words)])
    fitting = next(n for n in range(100, 0, -1) if whole([" ".join(words[:n])])[1].sum() <= 100)
    expected, expected_mask = whole([" ".join(words[:fitting])])
    assert 0 < fitting < 100
    np.testing.assert_array_equal(ids[mask], expected[expected_mask])
    with pytest.raises(InputError, match=r"text_length=9: .* a prompt of \d+ tokens"):
        config.build(9, prompt=OPENVLA)


def test_prompts_without_a_place_or_a_token_are_refused(qwen_folder):
    with pytest.raises(InputError, match="is expected in it once"):
        PromptTemplate(template="What now?")
    with pytest.raises(InputError, match="found no token '▁'"):
        TokenizerConfig(path=str(qwen_folder)).build(64, prompt=OPENVLA)
