"""An accidental change of the mathematics moves the first losses of a run: they are pinned, for each kind of run.

Processors differ in the last bits: with the oldest instruction set of x86-64 the worst number was 7e-6 of itself off.
"""

import json

import pytest
from trajectories import CASES, PINNED, UPDATES, trajectory

TOLERANCE = 3e-4
pinned = json.loads(PINNED.read_text())


def test_every_case_is_pinned():
    assert set(pinned) == set(CASES)
    assert all(len(case["updates"]) == UPDATES for case in pinned.values())


@pytest.mark.parametrize("case", CASES)
def test_the_first_updates_are_the_pinned_ones(case, tmp_path):
    actual = trajectory(case, tmp_path)
    for update, (now, then) in enumerate(zip(actual["updates"], pinned[case]["updates"], strict=True)):
        assert now == pytest.approx(then, rel=TOLERANCE, abs=1e-5), f"update {update + 1}: loss, gradient norm"
    for now, then in zip(actual["metrics"], pinned[case]["metrics"], strict=True):
        assert now == pytest.approx(then, rel=TOLERANCE, abs=1e-5)
