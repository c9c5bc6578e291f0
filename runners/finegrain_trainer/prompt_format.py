"""Prompts and responses as token ids, and back. Pinned for TypeScript and Python by test/golden/prompt_format.json.

prompt ids   = bos + for each message (prefix of its role + ids of its content + suffix of its role) + generation_prefix
response ids = ids of the text, then EOS where a whole response is meant

Text that spells a control token is encoded as the text that it is.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from .data import ROLES, Prompt
from .failures import BadSpec


@dataclass(frozen=True)
class RoleFormat:
    prefix: list[int]
    suffix: list[int]


@dataclass(frozen=True)
class PromptFormat:
    bos: list[int]
    roles: dict[str, RoleFormat]
    generation_prefix: list[int]

    def to_json(self) -> dict[str, Any]:
        roles = {name: {"prefix": role.prefix, "suffix": role.suffix} for name, role in self.roles.items()}
        return {"bos": self.bos, "roles": roles, "generation_prefix": self.generation_prefix}

    @staticmethod
    def from_json(raw: Any) -> "PromptFormat":
        """From finegrain.json; raises KeyError, TypeError or ValueError on anything else."""

        def ids(value: Any) -> list[int]:
            if not isinstance(value, list) or any(type(token) is not int or token < 0 for token in value):
                raise ValueError(f"expected a list of token ids, got {value!r}")
            return value

        roles = {name: RoleFormat(*(ids(raw["roles"][name][side]) for side in ("prefix", "suffix"))) for name in ROLES}
        return PromptFormat(ids(raw["bos"]), roles, ids(raw["generation_prefix"]))


class TextCodec:
    """A tokenizer and a prompt format: all that turns text into ids and ids into text."""

    def __init__(self, tokenizer: Tokenizer, prompt_format: PromptFormat, eos_token_id: int):
        tokenizer.encode_special_tokens = True  # "<|eos|>" in a text is five characters and more, never the token
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.format = prompt_format
        self.eos_token_id = eos_token_id

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, token_ids: list[int]) -> str:
        """Text of a response; control tokens have none."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids, and for each of them the code points of `text` that the tokenizer says it stands for."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def token_texts(self, token_ids: list[int]) -> list[str]:
        """The text that each token adds; of several that share a character the last has it, a control token none."""
        stream = DecodeStream(skip_special_tokens=True)
        texts = [stream.step(self._tokenizer, token) or "" for token in token_ids]
        if token_ids and not texts[-1]:  # what is left open at the end: a part of a character
            first = len(texts) - next((i for i, text in enumerate(reversed(texts)) if text), len(texts))
            texts[-1] = self.decode(token_ids[first:])
        return texts

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        ids = list(self.format.bos)
        for message in prompt:
            role = self.format.roles[message.role]
            ids += role.prefix + self.encode(message.content) + role.suffix
        return ids + self.format.generation_prefix

    def response_ids(self, response: str) -> list[int]:
        """Ids of a whole response, EOS included."""
        return [*self.encode(response), self.eos_token_id]


def plain_format(tokenizer: Tokenizer, bos_token_id: int | None) -> PromptFormat:
    """The format of a model folder that brings none: BOS if there is one, an empty line after each message."""
    separator = tokenizer.encode("\n\n", add_special_tokens=False).ids
    roles = {name: RoleFormat([], separator) for name in ROLES}
    return PromptFormat([] if bos_token_id is None else [bos_token_id], roles, [])


def load_tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise BadSpec(f"{path}: is missing; a model folder needs its fast tokenizer")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no class of its own for it
        raise BadSpec(f"{path}: is not a tokenizer: {error}") from error
