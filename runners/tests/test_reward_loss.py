"""The loss of a batch of edits or pairs against a slow, obvious one: row by row, unpadded, token by token."""

import math

import pytest
import torch
from support import loss_of_step, random_network, two_hunk_rows, write_rows

from finegrain_trainer.data import read_labels
from finegrain_trainer.models import RewardModel
from finegrain_trainer.reward import CENTRING
from finegrain_trainer.spec import SEQUENCE_LOSSES, RewardOptions

OPTIONS = RewardOptions(consistency_weight=0.3, anchor_weight=0.2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return read_labels(write_rows(tmp_path_factory.mktemp("labels") / "l.ndjson", two_hunk_rows(6)), 400)


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def loss_by_hand(model: RewardModel, rows: list) -> float:
    def z(row, version) -> list[float]:
        with torch.no_grad():
            logits = model.logits(torch.tensor([row.prompt_token_ids + version.token_ids]))[0, :, 0]
        return logits[len(row.prompt_token_ids) :].tolist()

    if model.loss in SEQUENCE_LOSSES:
        pairs = model.loss == "seq_pairs"
        versions = [(r.preferred, r.other) if pairs else (r.edited, r.original) for r in rows]
        ends = [(z(r, better)[-1], z(r, worse)[-1]) for r, (better, worse) in zip(rows, versions, strict=True)]
        return mean([softplus(w - b) for b, w in ends]) + CENTRING * mean([(b + w) ** 2 for b, w in ends])

    on_original, on_edited, preferences, kept, others = [], [], [], [], []
    for row in rows:
        original, edited = z(row, row.original), z(row, row.edited)
        labels = row.original.labels
        on_original += [softplus(-x) if label else softplus(x) for x, label in zip(original, labels, strict=True)]
        on_edited += [softplus(x) for x in edited]
        gains = [sum(edited[i] for i in h.good) - sum(original[i] for i in h.bad) for h in row.hunks]
        preferences.append(mean([softplus(-g) for g in gains]) if model.loss == "bt_hunk" else softplus(-sum(gains)))
        same = [
            [x for i, x in enumerate(original) if all(i not in h.original for h in row.hunks)],
            [x for i, x in enumerate(edited) if all(i not in h.edited for h in row.hunks)],
        ]
        kept += [(a - b) ** 2 for a, b in zip(*same, strict=True)]
        others += [x**2 for i, x in enumerate(original) if all(i not in h.bad for h in row.hunks)]
        others += [x**2 for i, x in enumerate(edited) if all(i not in h.good for h in row.hunks)]
    if model.loss == "survival":
        return mean(on_original) + mean(on_edited)
    return mean(preferences) + OPTIONS.consistency_weight * mean(kept) + OPTIONS.anchor_weight * mean(others)


@pytest.mark.parametrize("loss", ["survival", "bt_hunk", "bt_sum", "seq_edits", "seq_pairs"])
def test_the_loss_of_a_batch_is_the_one_computed_by_hand(loss, data):
    edits, pairs = data
    rows = pairs if loss == "seq_pairs" else edits
    lengths = {len(row.prompt_token_ids) for row in rows}
    assert len(lengths) > 1, "rows must need padding"
    torch.manual_seed(4)
    model = RewardModel(random_network().base_model, loss, clip=-4.0)
    actual = loss_of_step(model, rows, OPTIONS).item()
    assert actual == pytest.approx(loss_by_hand(model, rows), abs=2e-6, rel=2e-6)
