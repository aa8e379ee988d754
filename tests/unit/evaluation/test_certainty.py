"""Intervals, and whether a model beats the answer that needs none."""

from __future__ import annotations

from math import comb

import pytest

from vit_colossal.evaluation.certainty import interval, majority_baseline


@pytest.mark.parametrize(
    ("correct", "total", "expected"),
    # z = 1.959964: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), by hand.
    [(5, 12, (0.193260, 0.680489)), (0, 4, (0.0, 0.489891)), (360, 360, (0.989442, 1.0))],
)
def test_intervals_are_wilson_s(correct: int, total: int, expected: tuple[float, float]) -> None:
    assert interval(correct, total) == pytest.approx(expected, abs=1e-6)


def tail(successes: int, trials: int) -> float:
    return sum(comb(trials, k) for k in range(successes, trials + 1)) / 2**trials


def test_the_baseline_is_tested_on_the_images_where_the_two_differ() -> None:
    # 10 cats and 10 dogs: the model has 8 cats and 8 dogs; "cat" has all 10 cats.
    baseline = majority_baseline([[8, 2], [2, 8]], ["cat", "dog"])
    assert (baseline.label, baseline.correct) == ("cat", 10)
    assert baseline.p_value == pytest.approx(tail(8, 10))
    assert not baseline.is_beaten
    assert majority_baseline([[9, 1], [1, 9]], ["cat", "dog"]).is_beaten


@pytest.mark.parametrize(
    "confusion",
    [
        [[10, 0], [4, 0]],  # the model is the baseline
        [[1, 9], [0, 3]],  # worse than it
        [[3]],  # one label
    ],
)
def test_a_model_no_better_than_the_baseline_does_not_beat_it(confusion: list[list[int]]) -> None:
    baseline = majority_baseline(confusion, ["cat", "dog"])
    assert baseline.label == "cat" and baseline.p_value > 0.5 and not baseline.is_beaten


def test_few_images_tell_nothing_of_a_model_that_is_always_right() -> None:
    few = majority_baseline([[3, 0, 0], [0, 2, 0], [0, 0, 2]], ["tiles", "cars", "apples"])
    assert few.p_value == few.least_p_value == 0.5**4
    assert not few.is_beaten and not few.can_be_beaten
    assert majority_baseline([[5, 0], [5, 0]], ["cat", "dog"]).can_be_beaten


def test_120_classes_are_beaten_by_few_right_answers() -> None:
    confusion = [[1 if row == column else 0 for column in range(120)] for row in range(120)]
    baseline = majority_baseline(confusion, [f"breed {n}" for n in range(120)])
    assert (baseline.correct, baseline.is_beaten) == (1, True)
