"""NDJSON rows as typed values: parsed and checked once, here; every error names file, line and key.

Rows may carry columns that are not ours; they are left alone. Blank lines and a BOM at the start are skipped.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .failures import BadSpec

SPLITS = ("train", "validation", "test")
ROLES = ("system", "user", "assistant")

Row = TypeVar("Row")


@dataclass(frozen=True)
class Message:
    role: str
    content: str


# What a policy answers to. A prompt that is a plain string is one user message.
Prompt = tuple[Message, ...]


@dataclass(frozen=True)
class Example:
    """A demonstration for supervised fine-tuning."""

    id: str
    prompt: Prompt
    response: str
    split: str


@dataclass(frozen=True)
class Response:
    """One tokenised version of a response; `labels` is 1 on the tokens that carry the blame (or the praise)."""

    text: str
    token_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Hunk:
    """A place where the token ids of two versions differ (`original`, `edited`), and its labelled tokens B_h, G_h."""

    original: list[int]
    edited: list[int]
    bad: list[int]
    good: list[int]


@dataclass(frozen=True)
class Edit:
    """A less-preferred response y^l and its minimally edited version y^e. Not `usable`: no token labels.

    Outside the hunks both versions have the same ids in the same order.
    """

    id: str
    split: str
    prompt: Prompt
    prompt_token_ids: list[int]
    original: Response
    edited: Response
    hunks: list[Hunk]
    usable: bool
    # that was edited: several edits of one pair share it
    pair: str


@dataclass(frozen=True)
class Pair:
    """An unedited comparison of two responses."""

    id: str
    split: str
    prompt: Prompt
    prompt_token_ids: list[int]
    preferred: Response
    other: Response
    # share of the votes for the preferred response, ties counting one half; None where nobody counted
    vote_share: float | None = None


@dataclass(frozen=True)
class PromptRow:
    id: str
    prompt: Prompt
    raw_prompt: Any  # as it stood in the file, for the output rows
    line: int


class RowError(Exception):
    """What is wrong with one row; `key` is the path inside it."""

    def __init__(self, key: str, detail: str):
        super().__init__(f"{key}: {detail}" if key else detail)


def read_examples(path: Path) -> list[Example]:
    return list(
        _read(path, lambda row, line: Example(_text(row, "id"), _prompt(row), _text(row, "response"), _split(row)))
    )


def read_labels(path: Path, vocab_size: int) -> tuple[list[Edit], list[Pair]]:
    """Edits and pairs of a snapshot's token-label export; token ids must be below `vocab_size`."""

    def parse(row: dict[str, Any], line: int) -> Edit | Pair:
        kind = row.get("type")
        if kind not in ("edit", "pair"):
            raise RowError("type", f"expected 'edit' or 'pair', got {kind!r}")
        head = (_text(row, "id"), _split(row), _prompt(row), _ids(row, "prompt_token_ids", vocab_size))
        if kind == "pair":
            preferred, other = (_response(row, key, vocab_size, labelled=False) for key in ("preferred", "other"))
            return Pair(*head, preferred, other, _vote_share(row))
        usable = row.get("usable", True)
        if not isinstance(usable, bool):
            raise RowError("usable", f"expected true or false, got {usable!r}")
        original, edited = (_response(row, key, vocab_size, labelled=usable) for key in ("original", "edited"))
        pair = _text(row, "pair") if "pair" in row else head[0]
        return Edit(*head, original, edited, _hunks(row, original, edited), usable, pair)

    rows = list(_read(path, parse))
    return [row for row in rows if isinstance(row, Edit)], [row for row in rows if isinstance(row, Pair)]


def read_prompts(path: Path) -> list[PromptRow]:
    return list(_read(path, lambda row, line: PromptRow(_text(row, "id"), _prompt(row), row["prompt"], line)))


def read_texts(path: Path) -> list[tuple[Prompt, Any, str]]:
    """Prompts, as they stood in the file too, with a response each."""
    return list(_read(path, lambda row, line: (_prompt(row), row["prompt"], _text(row, "response"))))


def file_digest(path: Path) -> str:
    """`sha256:<hex>` of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _read(path: Path, parse: Callable[[dict[str, Any], int], Row]) -> Iterator[Row]:
    empty = True
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if not text.strip():
                    continue
                row = json.loads(text)
                if not isinstance(row, dict):
                    raise RowError("", f"expected an object, got {type(row).__name__}")
                yield parse(row, number)
                empty = False
            except UnicodeDecodeError as error:
                raise BadSpec(f"{path.name} line {number}: is not UTF-8") from error
            except json.JSONDecodeError as error:
                raise BadSpec(f"{path.name} line {number}: is not JSON: {error.msg} at column {error.colno}") from error
            except RowError as error:
                raise BadSpec(f"{path.name} line {number}: {error}") from None
    if empty:
        raise BadSpec(f"{path.name}: has no rows")


def _text(row: dict[str, Any], key: str, where: str = "") -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise RowError(where + key, f"expected a string, got {value!r}" if key in row else "is required")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RowError(where + key, "holds a lone surrogate, which is not text") from None
    return value


def _split(row: dict[str, Any]) -> str:
    if row.get("split") not in SPLITS:
        raise RowError("split", f"expected one of {', '.join(SPLITS)}, got {row.get('split')!r}")
    return row["split"]


def _prompt(row: dict[str, Any]) -> Prompt:
    value = row.get("prompt")
    if not isinstance(value, list):
        return (Message("user", _text(row, "prompt")),)
    if not value:
        raise RowError("prompt", "has no messages")
    messages = []
    for index, message in enumerate(value):
        where = f"prompt[{index}]"
        if not isinstance(message, dict):
            raise RowError(where, f"expected an object, got {type(message).__name__}")
        if message.get("role") not in ROLES:
            raise RowError(f"{where}.role", f"expected one of {', '.join(ROLES)}, got {message.get('role')!r}")
        messages.append(Message(message["role"], _text(message, "content", f"{where}.")))
    return tuple(messages)


def _ids(row: dict[str, Any], key: str, vocab_size: int, where: str = "") -> list[int]:
    value = row.get(key)
    if not isinstance(value, list) or not value:
        raise RowError(where + key, "expected a non-empty list of token ids")
    for index, token in enumerate(value):
        if type(token) is not int or not 0 <= token < vocab_size:
            raise RowError(f"{where}{key}[{index}]", f"expected an id from 0 to {vocab_size - 1}, got {token!r}")
    return value


def _hunks(row: dict[str, Any], original: Response, edited: Response) -> list[Hunk]:
    value = row.get("hunks", [])
    if not isinstance(value, list):
        raise RowError("hunks", "expected a list")
    hunks = []
    for index, hunk in enumerate(value):
        where = f"hunks[{index}]"
        if not isinstance(hunk, dict):
            raise RowError(where, f"expected an object, got {type(hunk).__name__}")
        sides = []
        for key, response in (("original", original), ("edited", edited), ("bad", original), ("good", edited)):
            places = hunk.get(key)
            if not isinstance(places, list) or any(
                type(place) is not int or not 0 <= place < len(response.token_ids) for place in places
            ):
                raise RowError(f"{where}.{key}", "expected a list of token positions of its response")
            sides.append(places)
        hunks.append(Hunk(*sides))
    changed = [{place for hunk in hunks for place in getattr(hunk, side)} for side in ("original", "edited")]
    if hunks and len(original.token_ids) - len(changed[0]) != len(edited.token_ids) - len(changed[1]):
        raise RowError("hunks", "do not leave equally many tokens on both sides")
    return hunks


def _vote_share(row: dict[str, Any]) -> float | None:
    if "votes" not in row:
        return None
    votes, names = row["votes"], ("preferred", "other", "tie")
    if not isinstance(votes, dict) or any(type(votes.get(n)) is not int or votes[n] < 0 for n in names):
        raise RowError("votes", "expected the numbers of votes `preferred`, `other` and `tie`")
    count = sum(votes[name] for name in names)
    return (votes["preferred"] + votes["tie"] / 2) / count if count else None


def _response(row: dict[str, Any], key: str, vocab_size: int, labelled: bool) -> Response:
    value = row.get(key)
    if not isinstance(value, dict):
        raise RowError(key, "expected an object" if key in row else "is required")
    where = f"{key}."
    text, token_ids = _text(value, "text", where), _ids(value, "token_ids", vocab_size, where)
    if not labelled:
        return Response(text, token_ids, [])
    labels = value.get("labels")
    if not isinstance(labels, list) or any(label not in (0, 1) or isinstance(label, bool) for label in labels):
        what = "expected a list of 0 and 1" if "labels" in value else "is required in an edit that is usable"
        raise RowError(where + "labels", what)
    if len(labels) != len(token_ids):
        raise RowError(where + "labels", f"has {len(labels)} entries, but token_ids has {len(token_ids)}")
    return Response(text, token_ids, labels)
