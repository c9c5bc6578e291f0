"""The int8 mode of a token reward model: a second graph, offered only where it ranks tokens as float32 does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .export import graph_rewards, open_graph
from .metrics import area_under_curve, rank_correlation
from .models import RewardModel
from .scoring_graph import export_scoring_graph

LEAST_RANK_CORRELATION = 0.995
MOST_AUC_DIFFERENCE = 0.005
# What a service may be away from the int8 rewards of golden.json: where processors round a row's last bit otherwise, an
# activation can come out one step of 127 away.
LEAST_TOLERANCE = 0.01
FILE = "reward.int8.onnx"


@dataclass(frozen=True)
class Example:
    """A response to judge the mode by; `labels` [tokens], 1 for those that an annotator edited away, where known."""

    prompt_ids: list[int]
    token_ids: list[int]
    labels: list[int] | None = None


def add_int8(model: RewardModel, folder: Path, golden: dict[str, Any], examples: list[Example]) -> dict[str, Any]:
    """Writes the graph beside that of float32, and its rewards into `golden`; returns what finegrain.json says of it.

    `file` is None where the mode is not offered: the graph cannot be built, or ranks tokens otherwise.
    """
    graph = folder / FILE
    if export_scoring_graph(model, graph, int8=True) is None:
        return {"file": None}
    exact, rounded = open_graph(folder / "reward.onnx"), open_graph(graph)
    sides = [np.concatenate([_rewards(session, each) for each in examples]) for session in (exact, rounded)]
    known = np.concatenate([np.full(len(e.token_ids), e.labels is not None) for e in examples])
    labels = np.array([label for e in examples for label in e.labels or ()])
    areas = [area_under_curve(-rewards[known], labels) for rewards in sides] if known.any() else [None, None]
    measured = {
        "rank_correlation": rank_correlation(*sides),
        "bad_token_auc_difference": None if None in areas else areas[1] - areas[0],
        "tokens": len(known),
    }
    items = [Example(item["prompt_token_ids"], item["token_ids"]) for item in golden["items"]]
    golden_rewards = [_rewards(rounded, item) for item in items]
    error = max(np.abs(_rewards(exact, item) - its).max() for item, its in zip(items, golden_rewards, strict=True))
    offered = (measured["rank_correlation"] or 0) >= LEAST_RANK_CORRELATION
    offered = offered and abs(measured["bad_token_auc_difference"] or 0) <= MOST_AUC_DIFFERENCE
    if offered:
        golden["int8"] = {
            "tolerance": max(LEAST_TOLERANCE, float(error)),
            "rewards": [rewards.tolist() for rewards in golden_rewards],
        }
    else:
        graph.unlink()
    return {"file": FILE if offered else None, **measured}


def _rewards(session: Any, example: Example) -> np.ndarray:
    ids = np.array(example.prompt_ids + example.token_ids)
    return graph_rewards(session, ids)[len(example.prompt_ids) :]
