"""Evaluation counts every image once under every layout, and leaves training as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from layouts import LABELS, SIZES, VARIANTS, Layout, table
from plain_loop import Images, PlainRun, Recipe, evaluate_plain, model_with

from launching import Outcome

pytestmark = pytest.mark.slow

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


@pytest.mark.parametrize("layout", table())
def test_each_image_is_predicted_as_the_plain_model_predicts_it(
    layout: Layout, outcome: Outcomes, eval_images: Images
) -> None:
    run = outcome(layout, "plain")
    model = model_with(run.weights, LABELS)
    close = 1e-5 if layout.exact else 2e-2
    for result in run.after:
        expected = evaluate_plain(model, eval_images, result["total"])
        found = {name: np.array(column) for name, column in result["images"].items()}
        scores, labels = np.array(expected["scores"]), np.array(expected["labels"])
        every = np.arange(result["total"])
        assert np.array_equal(found["label"], labels)
        assert (found["label"] == found["prediction"]).sum() == result["correct"]
        clear = np.array(expected["margins"]) > close
        assert np.array_equal(found["prediction"][clear], scores.argmax(axis=1)[clear])
        losses = -np.log(scores[every, labels])
        np.testing.assert_allclose(found["loss"], losses, atol=5 * close)
        assert found["loss"].mean() == pytest.approx(result["loss"], rel=1e-5)
        theirs = np.take_along_axis(scores, found["top_labels"], axis=1)
        np.testing.assert_allclose(found["top_scores"], theirs, atol=close)
        assert (np.diff(found["top_scores"], axis=1) <= 0).all()


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
