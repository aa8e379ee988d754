"""Evaluation counts every image once under every layout, and leaves training as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from layouts import LABELS, SIZES, VARIANTS, Layout, table
from plain_loop import Images, PlainRun, Recipe, evaluate_plain, model_with

from launching import Outcome

Outcomes = Callable[[Layout, str], Outcome]
Reference = Callable[[Recipe], PlainRun]


def check(result: dict[str, Any], expected: dict[str, Any], *, exact: bool) -> None:
    """Equal numbers; images whose two best scores round alike may fall either way."""
    assert result["total"] == expected["total"]
    tied = sum(margin < (1e-5 if exact else 1e-2) for margin in expected["margins"])
    assert abs(result["correct"] - expected["correct"]) <= tied
    assert result["loss"] == pytest.approx(expected["loss"], rel=2e-6 if exact else 1e-3)


@pytest.mark.parametrize("layout", table())
def test_any_number_of_images_counts_as_the_plain_model_counts(
    layout: Layout, outcome: Outcomes, eval_images: Images
) -> None:
    run = outcome(layout, "plain")
    model = model_with(run.weights, LABELS)
    assert [result["total"] for result in run.after] == list(SIZES)
    for result in run.after:
        check(result, evaluate_plain(model, eval_images, result["total"]), exact=layout.exact)


@pytest.mark.parametrize("layout", table("evaluated", exact=True))
def test_evaluations_between_steps_count_the_model_of_that_step(
    layout: Layout, outcome: Outcomes, reference: Reference, eval_images: Images
) -> None:
    expected = reference(VARIANTS["evaluated"].recipe)
    evaluations = outcome(layout, "evaluated").evaluations
    wanted = {str(step): count for step, count in VARIANTS["evaluated"].evaluate}
    assert {step: result["total"] for step, result in evaluations.items()} == wanted
    for step, result in evaluations.items():
        model = model_with(expected.weights[int(step)], LABELS)
        check(result, evaluate_plain(model, eval_images, result["total"]), exact=True)


@pytest.mark.parametrize("layout", table("evaluated"))
def test_training_goes_on_to_the_bit_after_evaluations(layout: Layout, outcome: Outcomes) -> None:
    with_them, without = outcome(layout, "evaluated"), outcome(layout, "plain")
    totals = [result["total"] for result in with_them.evaluations.values()]
    assert totals == [count for _, count in VARIANTS["evaluated"].evaluate]
    assert with_them.wrong_modes == 0
    assert with_them.losses == without.losses
    assert with_them.weights.keys() == without.weights.keys()
    different = [n for n, w in with_them.weights.items() if not w.equal(without.weights[n])]
    assert not different
