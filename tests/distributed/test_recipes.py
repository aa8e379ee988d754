"""Augmentation, soft labels, frozen layers, rates per layer and averaged weights in every layout.

The plain loop does each of them in its own way; losses and weights have to come out as there.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from layouts import LABELS, SCHEDULES, VARIANTS, Band, Layout, table
from plain_loop import Images, PlainRun, Recipe, evaluate_plain, model_with
from test_evaluation import check as check_evaluation
from test_layouts import check

from launching import Outcome

Outcomes = Callable[[Layout, str], Outcome]
Reference = Callable[[Recipe], PlainRun]
Bands = Callable[[Layout, str], Band]


@pytest.mark.parametrize("layout", table("recipe"))
def test_everything_at_once_follows_the_plain_loop(
    layout: Layout, outcome: Outcomes, reference: Reference, band: Bands
) -> None:
    run, expected = check(layout, "recipe", outcome, reference, band)
    start, unaveraged = expected.weights[0], expected.weights[-2]
    far = {name: (w - unaveraged[name].to(w)).abs().max() for name, w in run.weights.items()}
    assert far["classifier.weight"] > 1e-4  # they are the average, not the last weights
    for name, weight in run.weights.items():
        frozen = "embeddings" in name or ".layer.0." in name
        if frozen or layout.exact:  # 16 bits do not show small steps
            assert weight.equal(start[name].to(weight)) == frozen, name


@pytest.mark.parametrize("layout", table("recipe"))
def test_the_average_is_what_is_evaluated_and_saved(
    layout: Layout, outcome: Outcomes, eval_images: Images
) -> None:
    run = outcome(layout, "recipe")
    [whole] = run.after
    expected = evaluate_plain(model_with(run.weights, LABELS), eval_images, 133)
    check_evaluation(whole, expected, exact=layout.exact)
    config = json.loads((run.export / "config.json").read_text())
    assert config["problem_type"] == "single_label_classification"


@pytest.mark.parametrize("layout", table("probe"))
def test_a_linear_probe_moves_the_head_alone(
    layout: Layout, outcome: Outcomes, reference: Reference, band: Bands
) -> None:
    run, expected = check(layout, "probe", outcome, reference, band)
    for name, weight in run.weights.items():
        same = weight.equal(expected.weights[0][name].to(weight))
        assert same == (not name.startswith("classifier.")), name


@pytest.mark.parametrize("variant", SCHEDULES)
@pytest.mark.parametrize("layout", table(SCHEDULES[0]))
def test_sgd_and_other_schedules_follow_the_plain_loop(
    layout: Layout, variant: str, outcome: Outcomes, reference: Reference, band: Bands
) -> None:
    check(layout, variant, outcome, reference, band)


def test_the_variants_do_what_they_are_called(reference: Reference) -> None:
    """Each part changes the plain loop's losses: a layout that left it out would be found."""
    recipe, defaults = VARIANTS["recipe"].recipe, Recipe(steps=0, lr=0)
    whole = reference(recipe).losses
    for part in ("mixup", "smoothing", "erasing", "layer_decay", "trained_from", "clip_grad_norm"):
        without = reference(Recipe(**{**vars(recipe), part: getattr(defaults, part)})).losses
        assert max(abs(a / b - 1) for a, b in zip(whole, without, strict=True)) > 1e-4, part
