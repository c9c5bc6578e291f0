"""Golden vectors that the TypeScript tests read as well (tests/make_golden.py describes the file), and tokenizers."""

import json

import pytest
from make_golden import as_prompt
from support import GOLDEN
from tokenizers import Tokenizer

from finegrain_trainer.data import file_digest
from finegrain_trainer.prompt_format import PromptFormat, TextCodec, load_tokenizer, plain_format
from finegrain_trainer.tokenizer import EOS, SPECIAL_TOKENS, train_tokenizer

VECTORS = json.loads((GOLDEN / "prompt_format.json").read_text())
CODECS = {
    name: TextCodec(
        load_tokenizer(GOLDEN / VECTORS["tokenizer"]), PromptFormat.from_json(f["prompt_format"]), f["eos_token_id"]
    )
    for name, f in VECTORS["formats"].items()
}
TRAPS = [
    "",
    " ",
    "a\r\nb",
    "👩‍👩‍👧",
    "e\u0301é",
    "日本語",
    "\ufeff\u200b\u2028",
    "𝒳\U0010ffff",
    "<|eos|></s>",
    "\x01\x7f",
]


def test_the_tokenizer_is_the_one_that_the_vectors_were_made_with():
    assert file_digest(GOLDEN / VECTORS["tokenizer"]) == VECTORS["tokenizer_digest"]


@pytest.mark.parametrize("item", VECTORS["prompts"], ids=lambda item: item["name"])
def test_golden_prompts(item):
    for name, codec in CODECS.items():
        assert codec.prompt_ids(as_prompt(item["prompt"])) == item["token_ids"][name]


@pytest.mark.parametrize("item", VECTORS["responses"], ids=lambda item: item["name"])
def test_golden_responses(item):
    for codec in CODECS.values():
        assert codec.response_ids(item["response"]) == item["token_ids"]


@pytest.mark.parametrize("item", VECTORS["decodings"], ids=lambda item: item["name"])
def test_golden_decodings(item):
    assert CODECS["chat"].decode(item["token_ids"]) == item["text"]


@pytest.mark.parametrize("text", TRAPS)
def test_any_text_comes_back_and_never_becomes_a_control_token(text):
    ids = CODECS["chat"].encode(text)
    assert all(token >= len(SPECIAL_TOKENS) for token in ids)
    assert CODECS["chat"].decode(ids) == text


def test_a_format_survives_json():
    for codec in CODECS.values():
        assert PromptFormat.from_json(json.loads(json.dumps(codec.format.to_json()))) == codec.format


def test_the_plain_format_has_no_bos_where_the_model_has_none():
    assert plain_format(load_tokenizer(GOLDEN / "tokenizer.json"), None).bos == []


def test_a_tokenizer_file_that_pads_or_truncates_does_so_no_longer(tmp_path):
    tokenizer = Tokenizer.from_file(str(GOLDEN / "tokenizer.json"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    codec = TextCodec(load_tokenizer(tmp_path / "tokenizer.json"), CODECS["chat"].format, EOS)
    assert codec.encode("the harbour, the garden") == CODECS["chat"].encode("the harbour, the garden")


def test_equal_texts_give_equal_tokenizers_of_the_size_asked_for():
    texts = [f"the {a} and the {b}" for a in ("harbour", "garden", "river") for b in ("summer", "winter", "spring")]
    first, second = (train_tokenizer(texts, 280).to_str() for _ in range(2))
    assert first == second
    tokenizer = Tokenizer.from_str(first)
    assert tokenizer.get_vocab_size() == 280
    assert [tokenizer.id_to_token(i) for i in range(len(SPECIAL_TOKENS))] == SPECIAL_TOKENS
