"""What a reward model is worth on held-out rows: the three metrics, where they hold and where not, and its worst items.

By length and by kind of edit, because an average hides that a model finds what was deleted and never what is missing;
with the calibration of p, because rewards are logarithms of probabilities; and with the worst items token by token,
because what a model gets wrong is seen sooner in ten texts than in any number (the paper's error analysis).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .batching import length_sorted
from .data import Edit, Pair, Response
from .metrics import accuracy, area_under_curve, bad_token_auc, calibration, vote_agreement
from .models import RewardModel
from .prompt_format import TextCodec

LENGTH_GROUPS = 4
WORST_ITEMS = 25


@dataclass(frozen=True)
class LabelData:
    """Rows that take part; `left_out` counts the others by reason."""

    edits: list[Edit]
    pairs: list[Pair]
    left_out: dict[str, int]


@dataclass(frozen=True)
class Judged:
    """A row with the rewards of the tokens of its worse and of its better version: y^l and y^e, or two responses."""

    row: Edit | Pair
    worse: np.ndarray
    better: np.ndarray

    @property
    def margin(self) -> float:
        """By how much the better version has the higher total."""
        return float(self.better.sum(dtype=np.float64) - self.worse.sum(dtype=np.float64))


def compared(row: Edit | Pair) -> tuple[Response, Response]:
    """The worse and the better version."""
    return (row.other, row.preferred) if isinstance(row, Pair) else (row.original, row.edited)


def versions(row: Edit | Pair) -> tuple[list[int], list[int]]:
    """Token ids of the worse and of the better version."""
    worse, better = compared(row)
    return worse.token_ids, better.token_ids


def judge(model: RewardModel, data: LabelData, split: str) -> list[Judged]:
    """The edits, then the pairs of a split."""
    rows = [row for row in (*data.edits, *data.pairs) if row.split == split]
    prompts = [row.prompt_token_ids for row in rows]
    worse, better = zip(*map(versions, rows), strict=True) if rows else ([], [])
    return [
        Judged(*each)
        for each in zip(rows, token_rewards(model, prompts, worse), token_rewards(model, prompts, better), strict=True)
    ]


def token_rewards(model: RewardModel, prompts: list[list[int]], responses: Iterable[list[int]]) -> list[np.ndarray]:
    """Rewards of each response's tokens, in the order given."""
    responses = list(responses)
    rewards: list[np.ndarray] = [np.empty(0)] * len(responses)
    for rows in length_sorted([len(p) + len(r) for p, r in zip(prompts, responses, strict=True)], batch_size=64):
        packed = model.response_rewards([prompts[row] for row in rows], [responses[row] for row in rows]).cpu().numpy()
        ends = np.cumsum([len(responses[row]) for row in rows])
        for row, values in zip(rows, np.split(packed, ends[:-1]), strict=True):
            rewards[row] = values
    return rewards


def metrics(judged: list[Judged], finds_tokens: bool) -> dict[str, Any]:
    """The three of metrics.py. Edits without token labels still count for edit_accuracy; a sequence model has no
    bad_token_auc."""
    edits, pairs = _apart(judged)
    return {
        "edit_accuracy": _accuracy(edits),
        "pair_accuracy": _accuracy(pairs),
        "bad_token_auc": _auc(edits if finds_tokens else []),
    }


def figures(judged: list[Judged], finds_tokens: bool) -> dict[str, float | None]:
    """The values of the three metrics, without what their uncertainty costs."""
    edits, pairs = _apart(judged)
    labelled = [e for e in edits if e.row.usable] if finds_tokens else []
    area = None
    if labelled:
        badness = np.concatenate([-e.worse for e in labelled])
        area = area_under_curve(badness, np.concatenate([e.row.original.labels for e in labelled]))
    return {
        "edit_accuracy": _accuracy(edits)["value"],
        "pair_accuracy": _accuracy(pairs)["value"],
        "bad_token_auc": area,
    }


def breakdown(judged: list[Judged], model: RewardModel) -> dict[str, Any]:
    """Where the metrics hold. `by_length`: edits in four groups by tokens of y^l; `by_kind`: edits that insert, delete,
    replace (those that do several count for each; of their tokens only those of that kind count as labelled);
    `calibration`: of p_t, the probability that a token is edited away, for the loss `survival`; `votes`: agreement with
    single annotators, where they are counted."""
    edits, pairs = _apart(judged)
    auc = _auc if model.role == "token_reward" else lambda edits, kind=None: _auc([])
    by_length = []
    for group in np.array_split(sorted(edits, key=lambda e: len(e.row.original.token_ids)), LENGTH_GROUPS):
        if len(group):
            lengths = [len(e.row.original.token_ids) for e in (group[0], group[-1])]
            by_length.append({"tokens": lengths, "edit_accuracy": _accuracy(group), "bad_token_auc": auc(group)})
    by_kind = {}
    for kind in ("insert", "delete", "replace"):
        of_kind = [e for e in edits if kind in map(kind_of, e.row.hunks)]
        by_kind[kind] = {"edit_accuracy": _accuracy(of_kind), "bad_token_auc": auc(of_kind, kind)}
    result: dict[str, Any] = {"by_length": by_length, "by_kind": by_kind}
    if counted := [p for p in pairs if p.row.vote_share is not None]:
        shares = np.array([p.row.vote_share for p in counted])
        result["votes"] = vote_agreement(np.array([p.margin for p in counted]), shares)
    if model.loss == "survival":
        labelled = [e for e in edits if e.row.usable]
        result["calibration"] = calibration(
            [-np.expm1(e.worse.astype(np.float64)) for e in labelled],
            [np.array(e.row.original.labels) for e in labelled],
        )
    return result


def kind_of(hunk: Any) -> str:
    """Of a place where two versions differ; the end of a response counts as a token like any other."""
    if not hunk.original:
        return "insert"
    return "replace" if hunk.edited else "delete"


def write_worst(judged: list[Judged], codec: TextCodec, path: Path) -> None:
    """The edits and the pairs that are ordered wrong by most, token by token, worst first."""
    wrong = [
        sorted((e for e in part if e.margin <= 0), key=lambda e: e.margin)[:WORST_ITEMS] for part in _apart(judged)
    ]
    rows = [_describe(each, codec) for part in wrong for each in part]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _describe(judged: Judged, codec: TextCodec) -> dict[str, Any]:
    row = judged.row
    names = ("other", "preferred") if isinstance(row, Pair) else ("original", "edited")
    result: dict[str, Any] = {
        "type": "pair" if isinstance(row, Pair) else "edit",
        "id": row.id,
        "split": row.split,
        "margin": judged.margin,
        "prompt": [{"role": message.role, "content": message.content} for message in row.prompt],
    }
    for name, rewards in zip(names, (judged.worse, judged.better), strict=True):
        response = getattr(row, name)
        result[name] = {
            "text": response.text,
            "tokens": [codec.decode([token]) for token in response.token_ids],
            "rewards": [round(float(reward), 4) for reward in rewards],
            **({"labels": response.labels} if response.labels else {}),
        }
    return result


def _apart(judged: list[Judged]) -> tuple[list[Judged], list[Judged]]:
    return [e for e in judged if isinstance(e.row, Edit)], [e for e in judged if isinstance(e.row, Pair)]


def _accuracy(judged: Iterable[Judged]) -> dict[str, Any]:
    margins = np.array([each.margin for each in judged])
    return accuracy(margins, np.zeros_like(margins))


def _auc(edits: Iterable[Judged], kind: str | None = None) -> dict[str, Any]:
    """`kind`: other labelled tokens are left out."""
    badness, labels = [], []
    for each in edits:
        if not each.row.usable:
            continue
        own = np.array(each.row.original.labels)
        if kind is not None:
            of_kind = np.zeros_like(own)
            of_kind[[place for hunk in each.row.hunks if kind_of(hunk) == kind for place in hunk.bad]] = 1
            counts = (own == 0) | (of_kind == 1)
            badness.append(-each.worse[counts])
            labels.append((own & of_kind)[counts])
        else:
            badness.append(-each.worse)
            labels.append(own)
    return bad_token_auc(badness, labels)
