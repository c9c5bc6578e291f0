"""How often the heads of a reward model agree: where they do not, its rewards are worth less."""

from typing import Any

import numpy as np
import torch

from .batching import collate, length_sorted
from .data import Edit
from .metrics import accuracy
from .models import RewardModel
from .reward_evaluation import Judged, versions


def head_agreement(model: RewardModel, judged: list[Judged]) -> dict[str, Any]:
    """Of the edits and of the pairs of a split: the share whose versions all heads order alike, and the accuracy of the
    model where they do and where they do not."""
    margins = head_margins(model, judged)
    alike = np.abs(np.sign(margins).sum(1)) == model.heads
    is_edit = np.array([isinstance(each.row, Edit) for each in judged], bool)
    own = np.array([each.margin for each in judged])

    def of(rows: np.ndarray) -> dict[str, Any]:
        against = lambda values: accuracy(values, np.zeros_like(values))  # noqa: E731
        return {
            "agree": against(np.where(alike[rows], 1.0, -1.0)),
            "accuracy_where_they_agree": against(own[rows & alike]),
            "accuracy_where_they_do_not": against(own[rows & ~alike]),
        }

    return {"count": model.heads, "edits": of(is_edit), "pairs": of(~is_edit)}


@torch.no_grad()
def head_margins(model: RewardModel, judged: list[Judged]) -> np.ndarray:
    """By how much the better version of each row has the higher total, for each head alone: [rows, heads]."""
    margins = np.zeros((len(judged), model.heads))
    both = [versions(each.row) for each in judged]
    prompts = [each.row.prompt_token_ids for each in judged]
    for rows in length_sorted([len(p) + max(map(len, b)) for p, b in zip(prompts, both, strict=True)], batch_size=32):
        worse, better = zip(*(both[row] for row in rows), strict=True)
        batch = collate([prompts[row] for row in rows] * 2, [*worse, *better], model.score.weight.device)
        paid = model.paid(batch.is_response)
        totals = (model.head_rewards(batch.ids) * paid[..., None]).sum(1)
        margins[rows] = (totals[len(rows) :] - totals[: len(rows)]).cpu().numpy()
    return margins
