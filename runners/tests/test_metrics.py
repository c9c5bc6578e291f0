"""The numbers that a model is judged by, against counting by hand."""

import numpy as np
import pytest

from finegrain_trainer.metrics import accuracy, bad_token_auc, calibration, vote_agreement, wilson


def split_at(values: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    return np.split(values, np.cumsum(sizes)[:-1])


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_token_pairs_in_order_with_ties_as_halves(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, size=60).astype(float)  # many ties
    labels = (rng.random(60) < 0.2).astype(int)
    wins = [(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]]
    sizes = [10, 1, 29, 20]
    result = bad_token_auc(split_at(scores, sizes), split_at(labels, sizes))
    assert result["value"] == pytest.approx(np.mean(wins))
    assert result["low"] <= result["value"] <= result["high"]
    assert (result["edits"], result["labelled_tokens"], result["other_tokens"]) == (4, labels.sum(), 60 - labels.sum())


def test_the_interval_of_the_auc_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(7)
    truth, covered = 0.760250, 0  # P(N(1, 1) > N(0, 1))
    for _ in range(60):
        labels = [(rng.random(12) < 0.25).astype(int) for _ in range(60)]
        result = bad_token_auc([rng.normal(size=12) + each for each in labels], labels)
        covered += result["low"] <= truth <= result["high"]
    assert 51 <= covered <= 60


def test_the_interval_is_wider_when_the_tokens_of_an_edit_are_kin():
    rng = np.random.default_rng(0)
    labels = [np.array([1] * 10 + [0] * 10) for _ in range(200)]
    alone = [rng.normal(size=20) + each for each in labels]
    kin = [np.repeat(rng.normal(size=2), 10) + each for each in labels]
    width = lambda r: r["high"] - r["low"]  # noqa: E731
    assert width(bad_token_auc(kin, labels)) > 1.5 * width(bad_token_auc(alone, labels))


def test_nothing_to_compare_gives_null_and_never_nan():
    for labels in ([np.zeros(3, dtype=int)], [np.ones(3, dtype=int)], []):
        result = bad_token_auc([np.arange(3.0)] * len(labels), labels)
        assert (result["value"], result["low"], result["high"]) == (None, None, None)
    assert accuracy(np.array([]), np.array([]))["value"] is None


def test_probabilities_that_are_right_are_calibrated_and_others_are_not():
    rng = np.random.default_rng(3)
    probabilities = [rng.beta(0.5, 4, size=40) for _ in range(300)]
    labels = [(rng.random(40) < p).astype(int) for p in probabilities]
    right = calibration(probabilities, labels)
    assert right["expected_calibration_error"]["value"] < 0.015
    full = [row for row in right["bins"] if row["tokens"] >= 100]
    assert sum(row["low"] <= row["mean_probability"] <= row["high"] for row in full) >= len(full) - 1
    wrong = calibration([p / 2 for p in probabilities], labels)["expected_calibration_error"]
    assert wrong["low"] <= wrong["value"] <= wrong["high"]
    assert wrong["value"] == pytest.approx(np.concatenate(probabilities).mean() / 2, abs=0.01)


def test_calibration_is_counted_as_by_hand():
    result = calibration([np.array([0.05, 0.5]), np.array([0.09, 1.0, 0.0])], [np.array([0, 1]), np.array([1, 1, 0])])
    rows = [(r["from"], r["tokens"], r["mean_probability"], r["share_labelled"]) for r in result["bins"]]
    assert rows == [(0.0, 1, 0.0, 0.0), (0.03, 2, pytest.approx(0.07), 0.5), (0.4, 1, 0.5, 1.0), (0.97, 1, 1.0, 1.0)]
    assert result["expected_calibration_error"]["value"] == pytest.approx((2 * 0.43 + 0.5) / 5)
    assert calibration([], [])["bins"] == []


def test_accuracy_counts_ties_as_halves_and_says_how_many():
    result = accuracy(np.array([1.0, 2.0, 3.0, 0.0]), np.array([0.0, 2.0, 1.0, 5.0]))
    assert (result["value"], result["n"], result["ties"]) == (0.625, 4, 1)


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(0.5, 10, 0.2366, 0.7634), (0.0, 20, 0.0, 0.1611), (1.0, 20, 0.8389, 1.0), (0.85, 400, 0.8117, 0.8817)],
)
def test_wilson_intervals_are_those_of_the_tables(share, n, low, high):
    assert wilson(share, n) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_a_model_agrees_with_those_who_voted_as_it_orders_the_pair():
    result = vote_agreement(np.array([2.0, -1.0, 0.0, 3.0]), np.array([1.0, 0.8, 0.6, 0.4]))
    assert result["value"] == pytest.approx((1 + 0.2 + 0.5 + 0.4) / 4)
    assert result["possible"] == pytest.approx((1 + 0.8 + 0.6 + 0.6) / 4)
    assert 0.2 <= result["low"] < result["value"] < result["high"] <= 1
