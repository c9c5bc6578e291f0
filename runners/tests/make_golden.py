"""Writes tokenizer.json, prompt_format.json and token_offsets.json of test/golden; the TypeScript tests read them too.

`python tests/make_golden.py` from runners/; run it only when the rules of rendering change, and say so in the commit.

Shape of prompt_format.json (also under its key `about`):
  tokenizer           the tokenizer file beside it; tokenizer_digest: sha256 of its bytes
  formats             name -> the keys of a finegrain.json that matter here: eos_token_id, prompt_format
  prompts             [{name, prompt: text or messages, token_ids: {format name: ids}}]
  responses           [{name, response, token_ids: ids with EOS at the end}]; the same for every format
  decodings           [{name, token_ids, text}]; control tokens have no text, broken UTF-8 becomes U+FFFD

token_offsets.json has items {name, text, offsets: what a tokenizer reports, tiles}, in code points.
"""

import json
from pathlib import Path

from finegrain_trainer.data import Message, file_digest
from finegrain_trainer.projection import tile
from finegrain_trainer.prompt_format import TextCodec, load_tokenizer, plain_format
from finegrain_trainer.tokenizer import ASSISTANT, BOS, EOS, PAD, USER, chat_format, train_tokenizer

FOLDER = Path(__file__).parents[2] / "test" / "golden"
VOCAB_SIZE = 400
TEXTS = [
    "Write a short letter to Anna about the harbour, in a warm tone.",
    "Write a short note to Bob about the garden, in a formal tone.",
    "Please order seven chairs and two tables for the concert on Friday.",
    "Dear Anna, this letter is about the harbour. The weather is fine.",
    "The answer is that the river was crossed in the summer of the year.",
    "Hello, thank you for the message; the meeting is at the station.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "Le cœur déçu mais l'âme plutôt naïve, Louÿs rêva de crapaüter.",
    "1. First, 2. second, 3. third: 100 %, 3.14, 42.",
]
ABOUT = __doc__.split("Shape of prompt_format.json (also under its key `about`):\n")[1].split("\n\n")[0].split("\n")

PROMPTS = {
    "one user message": "Write a short letter to Anna.",
    "empty": "",
    "spaces kept": "  leading, double  and trailing  ",
    "line ends": "one\r\ntwo\n\nthree\rfour\ttab",
    "emoji": "thumbs 👍🏽, family 👩‍👩‍👧, flag 🇺🇳",
    "combining and composed": "e\u0301 is not \u00e9; \ufb01 is a ligature",
    "other scripts": "日本語のテスト, تجربة, परीक्षण, тест",
    "text that spells control tokens": "<|bos|><|user|>hi<|assistant|>yes<|eos|><|pad|>",
    "outside the basic plane": "𝒳 and 𐍈 and \U0010ffff",
    "byte order mark and zero width": "\ufeffstart\u200bend\u2028next",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Which river?"},
        {"role": "assistant", "content": "The Danube."},
        {"role": "user", "content": "How long is it? <|eos|>"},
    ],
    "messages with an empty one": [{"role": "system", "content": ""}, {"role": "user", "content": "Go."}],
}
RESPONSES = {
    "plain": "Dear Anna, the weather is fine.",
    "empty": "",
    "leading space": " the harbour",
    "control tokens as text": "yes<|eos|> and on <|assistant|>",
    "crlf and emoji": "a\r\nb 👍🏽",
}
# As byte-level, WordPiece and SentencePiece tokenizers report them, beyond what the golden one makes of RESPONSES.
OFFSETS = {
    "trimmed spaces": ("  ab \n", [(2, 3), (3, 4)]),
    "parts of a character": ("a \U0001f44d", [(0, 1), (1, 3), (2, 3), (2, 3)]),
    "a token without text first": (" x", [(0, 0), (1, 2)]),
    "a token without text last": ("x ", [(0, 1), (1, 1)]),
    "no token has text": ("\u200b", [(0, 0), (0, 0)]),
    "overlapping": ("abcd", [(0, 3), (1, 4)]),
    "no tokens": ("", []),
}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "tokenizer.json"
    train_tokenizer(TEXTS, VOCAB_SIZE).save(str(path))
    formats = {"chat": chat_format(), "plain": plain_format(load_tokenizer(path), BOS)}
    codecs = {name: TextCodec(load_tokenizer(path), prompt_format, EOS) for name, prompt_format in formats.items()}
    codec = codecs["chat"]
    fine = codec.encode("fine 👍")
    decodings = {
        "control tokens": [BOS, USER, *codec.encode("Hi"), ASSISTANT, PAD, *codec.encode(" there"), EOS],
        "cut inside a character": fine[:-1],
        "empty": [],
    }
    golden = {
        "about": ABOUT,
        "tokenizer": path.name,
        "tokenizer_digest": file_digest(path),
        "formats": {name: {"eos_token_id": EOS, "prompt_format": f.to_json()} for name, f in formats.items()},
        "prompts": [
            {
                "name": name,
                "prompt": prompt,
                "token_ids": {key: each.prompt_ids(as_prompt(prompt)) for key, each in codecs.items()},
            }
            for name, prompt in PROMPTS.items()
        ],
        "responses": [
            {"name": name, "response": text, "token_ids": codec.response_ids(text)} for name, text in RESPONSES.items()
        ],
        "decodings": [{"name": name, "token_ids": ids, "text": codec.decode(ids)} for name, ids in decodings.items()],
    }
    (FOLDER / "prompt_format.json").write_text(one_item_a_line(golden), encoding="ascii")
    own = [(name, text, codec.encode_with_offsets(text)[1]) for name, text in RESPONSES.items()]
    items = [
        {"name": name, "text": text, "offsets": offsets, "tiles": tile(offsets, len(text))}
        for name, text, offsets in own + [(name, *each) for name, each in OFFSETS.items()]
    ]
    (FOLDER / "token_offsets.json").write_text(one_item_a_line({"items": items}), encoding="ascii")


def one_item_a_line(golden: dict) -> str:
    """JSON in ASCII (so that no tool alters a line end or a character), laid out to be compared by eye."""

    def lines(value: list | dict | str) -> str:
        if isinstance(value, list):
            return "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in value) + "\n ]"
        return json.dumps(value)

    return "{\n" + ",\n".join(f" {json.dumps(key)}: {lines(value)}" for key, value in golden.items()) + "\n}\n"


def as_prompt(prompt: str | list) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    return tuple(Message(message["role"], message["content"]) for message in prompt)


if __name__ == "__main__":
    main()
