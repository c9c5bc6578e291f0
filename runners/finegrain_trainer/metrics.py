"""The three numbers that a token reward model is judged by, always together and each with its uncertainty.

edit_accuracy   share of held-out edits whose edited version scores higher
pair_accuracy   share of unedited pairs whose preferred response scores higher
bad_token_auc   how well -r_t finds the labelled tokens of the original in held-out edits

The first alone says little (ALGORITHM 2): a model can reach .95 on it and not find a single token. Ties count one half.
"""

from typing import Any

import numpy as np

LEVEL = 0.95
Z = 1.959963984540054  # the standard normal's quantile for LEVEL
BOOTSTRAP_DRAWS = 400
# Narrow at the lower end, where most tokens are.
PROBABILITY_EDGES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97, 1.0)


def accuracy(better: np.ndarray, worse: np.ndarray) -> dict[str, Any]:
    """Share of rows with `better` > `worse` [n], with Wilson's interval."""
    n = len(better)
    if n == 0:
        return {"value": None, "low": None, "high": None, "level": LEVEL, "method": "wilson", "n": 0, "ties": 0}
    ties = int((better == worse).sum())
    share = (int((better > worse).sum()) + 0.5 * ties) / n
    low, high = wilson(share, n)
    return {"value": share, "low": low, "high": high, "level": LEVEL, "method": "wilson", "n": n, "ties": ties}


def vote_agreement(margins: np.ndarray, shares: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Share of the annotators that a model agrees with, where each pair [n] has the `shares` of votes for its preferred
    response and the `margins` of that response's reward; `possible`: for the model that agrees with every majority.
    """
    agreed = np.where(margins > 0, shares, np.where(margins < 0, 1 - shares, 0.5))
    head = {"level": LEVEL, "method": "bootstrap over pairs", "n": len(shares)}
    rng = np.random.default_rng(seed)
    draws = [agreed[rng.integers(len(agreed), size=len(agreed))].mean() for _ in range(BOOTSTRAP_DRAWS)]
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    possible = np.maximum(shares, 1 - shares).mean()
    return {"value": float(agreed.mean()), "low": float(low), "high": float(high), "possible": float(possible), **head}


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion."""
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * np.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def bad_token_auc(badness: list[np.ndarray], labels: list[np.ndarray], seed: int = 0) -> dict[str, Any]:
    """Area under the ROC curve over the tokens of all edits; the bootstrap draws whole edits, as their tokens are kin.

    `badness` and `labels` (0 or 1): one array [tokens] for each edit.
    """
    counts = {
        "edits": len(labels),
        "labelled_tokens": int(sum(each.sum() for each in labels)),
        "other_tokens": int(sum((1 - each).sum() for each in labels)),
    }
    head = {"level": LEVEL, "method": "bootstrap over edits", **counts}
    if counts["labelled_tokens"] == 0 or counts["other_tokens"] == 0:
        return {"value": None, "low": None, "high": None, **head}
    scores, truth = np.concatenate(badness), np.concatenate(labels)
    edit_of = np.repeat(np.arange(len(labels)), [len(each) for each in labels])
    # Group equal scores once; each draw is then a weighted count over the sorted groups.
    _, group = np.unique(scores, return_inverse=True)
    value = _weighted_auc(group, truth, np.ones(len(truth)))
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(BOOTSTRAP_DRAWS):
        weights = np.bincount(rng.integers(len(labels), size=len(labels)), minlength=len(labels))[edit_of]
        draw = _weighted_auc(group, truth, weights)
        if np.isfinite(draw):
            draws.append(draw)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": float(value), "low": float(low), "high": float(high), **head}


def calibration(predicted: list[np.ndarray], labels: list[np.ndarray], seed: int = 0) -> dict[str, Any]:
    """How far probabilities can be believed: of the tokens with about such a probability, the share that is labelled.

    `predicted` in 0..1 and `labels` (0 or 1): one array [tokens] for each edit. The expected calibration error is the
    mean distance of the two, weighted by tokens; the bootstrap draws whole edits.
    """
    head = {"level": LEVEL, "method": "bootstrap over edits", "edits": len(labels)}
    if not labels:
        return {"expected_calibration_error": {"value": None, "low": None, "high": None}, **head, "bins": []}
    # [edits, bins] of tokens, of probability, and of labels
    bins = [np.digitize(p, PROBABILITY_EDGES[1:-1]) for p in predicted]
    size = len(PROBABILITY_EDGES) - 1
    tokens = np.array([np.bincount(b, minlength=size) for b in bins], np.float64)
    sums = np.array([np.bincount(b, p, size) for b, p in zip(bins, predicted, strict=True)])
    labelled = np.array([np.bincount(b, y, size) for b, y in zip(bins, labels, strict=True)])
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), BOOTSTRAP_DRAWS).astype(np.float64)
    weights = np.vstack([np.ones(len(labels)), draws])
    n, p, y = weights @ tokens, weights @ sums, weights @ labelled
    errors = np.abs(p - y).sum(1) / n.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = y / n
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    rows = []
    for index in np.flatnonzero(n[0]):
        low, high = np.nanquantile(shares[1:, index], tails)
        rows.append(
            {
                "from": PROBABILITY_EDGES[index],
                "to": PROBABILITY_EDGES[index + 1],
                "tokens": int(n[0, index]),
                "mean_probability": float(p[0, index] / n[0, index]),
                "share_labelled": float(shares[0, index]),
                "low": float(low),
                "high": float(high),
            }
        )
    low, high = np.quantile(errors[1:], tails)
    error = {"value": float(errors[0]), "low": float(low), "high": float(high)}
    return {"expected_calibration_error": error, **head, "bins": rows}


def area_under_curve(scores: np.ndarray, truth: np.ndarray) -> float | None:
    """The area alone; None where all of `truth` (0 or 1) is the same."""
    _, group = np.unique(scores, return_inverse=True)
    area = _weighted_auc(group, truth, np.ones(len(truth)))
    return area if np.isfinite(area) else None


def _weighted_auc(group: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> float:
    """P(score of a labelled token > score of another) + P(equal) / 2; `group` numbers the scores in rising order."""
    positive = np.bincount(group, weights * truth)
    negative = np.bincount(group, weights * (1 - truth), minlength=len(positive))
    total = positive.sum() * negative.sum()
    if total == 0:
        return float("nan")
    below = np.cumsum(negative) - negative
    return float((positive * (below + 0.5 * negative)).sum() / total)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's, equal values sharing their mean rank; None where one of them is constant."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[group]

    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])
