"""Every layout trains as the plain single-process loop does: losses, weights, clipping, groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest
from layouts import CLIP, LABELS, SCALED, STEPS, VARIANTS, Band, Layout, table
from plain_loop import KEY_BIAS, PlainRun, Recipe, movement

from launching import Outcome

Outcomes = Callable[[Layout, str], Outcome]
Reference = Callable[[Recipe], PlainRun]
Bands = Callable[[Layout, str], Band]


def distance(losses: list[float], expected: list[float]) -> float:
    """Largest relative difference of a step."""
    assert len(losses) == len(expected)
    return max(abs(loss / value - 1) for loss, value in zip(losses, expected, strict=True))


def recipe_of(layout: Layout, variant: str) -> Recipe:
    return replace(VARIANTS[variant].recipe, precision=layout.reference_precision)


def candidates(layout: Layout, variant: str) -> list[Recipe]:
    """The recipe; under fp16 also with updates left out, where the loss scale may overflow."""
    recipe = recipe_of(layout, variant)
    if layout.precision != "fp16":
        return [recipe]
    skips = [skip for count in range(3) for skip in combinations(range(4), count)]
    skips += [(step,) for step in range(4, recipe.steps)]
    skips += [skip for skip in combinations(range(recipe.steps), 2) if max(skip) > 3]
    return [replace(recipe, skipped=skip) for skip in skips]


def check(
    layout: Layout, variant: str, outcome: Outcomes, reference: Reference, band: Bands
) -> tuple[Outcome, PlainRun]:
    """Losses and weights went where the plain loop's went."""
    run, allowed = outcome(layout, variant), band(layout, variant)
    plain_runs = (reference(recipe) for recipe in candidates(layout, variant))
    expected = next(
        (plain for plain in plain_runs if distance(run.losses, plain.losses) <= allowed.losses),
        reference(recipe_of(layout, variant)),
    )
    assert distance(run.losses, expected.losses) <= allowed.losses
    assert run.weights.keys() == expected.weights[0].keys()
    start = expected.weights[0]
    moved, wanted = movement(run.weights, start), movement(expected.weights[-1], start)
    assert float((moved - wanted).norm() / wanted.norm()) <= allowed.movement
    return run, expected


@pytest.mark.parametrize("layout", table())
def test_losses_and_weights_follow_the_plain_loop(
    layout: Layout, outcome: Outcomes, reference: Reference, band: Bands
) -> None:
    run, expected = check(layout, "plain", outcome, reference, band)
    for name, start in expected.weights[0].items():
        if name.endswith(KEY_BIAS):  # rounding noise that Adam blew up: no further than its steps
            far = (run.weights[name].float() - start.float()).abs().max()
            assert far <= STEPS * VARIANTS["plain"].recipe.lr
            continue
        assert not run.weights[name].equal(start.to(run.weights[name].dtype)), f"{name} is as new"
        if layout.exact:  # one step moves a weight by up to 1e-3
            assert (run.weights[name] - expected.weights[-1][name]).abs().max() <= 1e-5, name


@pytest.mark.parametrize("layout", table(exact=False))
def test_the_band_of_16_bits_is_narrow(layout: Layout, band: Bands, reference: Reference) -> None:
    """It tells clipped from unclipped and one parameter group's losses from nonsense."""
    assert band(layout, "plain").losses < 2e-3
    for variant in ("clipped", "accumulated"):
        assert band(layout, variant).losses < 1e-2
        assert band(layout, variant).movement < 0.1
    clipped, free = (reference(recipe_of(layout, v)) for v in ("clipped", "accumulated"))
    assert distance(free.losses, clipped.losses) > 10 * band(layout, "clipped").losses


@pytest.mark.parametrize("layout", table("checkpointed"))
def test_gradient_checkpointing_recomputes_and_changes_nothing(
    layout: Layout, outcome: Outcomes
) -> None:
    with_it, without = outcome(layout, "checkpointed"), outcome(layout, "plain")
    assert with_it.layer_calls == 2 * without.layer_calls > 0
    assert with_it.losses == without.losses


@pytest.mark.parametrize("layout", table("one_group"))
def test_one_parameter_group(
    layout: Layout, outcome: Outcomes, reference: Reference, band: Bands
) -> None:
    run, expected = check(layout, "one_group", outcome, reference, band)
    name = "vit.layernorm.weight"  # ones: decay shows; undecayed with two groups
    two_groups = outcome(layout, "plain").weights[name].float()
    assert (run.weights[name].float() - two_groups).abs().max() > 1e-4
    assert (expected.weights[-1][name] - run.weights[name]).abs().max() < (2**-7, 1e-5)[
        layout.exact
    ]


@pytest.mark.parametrize("layout", table("clipped"))
def test_clipping_at_a_tenth(
    layout: Layout, outcome: Outcomes, reference: Reference, band: Bands
) -> None:
    run, expected = check(layout, "clipped", outcome, reference, band)
    assert min(expected.grad_norms) > 5 * CLIP
    unclipped = reference(replace(SCALED, precision=layout.reference_precision))
    start = expected.weights[0]
    free = movement(unclipped.weights[-1], start)
    assert movement(run.weights, start).norm() < 0.2 * free.norm()
    if layout.precision == "fp16":
        assert run.grad_norms == [None] * STEPS  # the plugins know the scaled norm only
    else:
        norms = [norm for norm in run.grad_norms if norm is not None]
        tolerance = 1e-5 if layout.exact else 1e-2
        assert distance(norms, expected.grad_norms) <= tolerance


@pytest.mark.parametrize("layout", table("accumulated"))
def test_accumulation_in_two_parts_changes_nothing(
    layout: Layout,
    outcome: Outcomes,
    reference: Reference,
    band: Bands,
    request: pytest.FixtureRequest,
) -> None:
    """The plain loop takes the whole batch at once."""
    check(layout, "accumulated", outcome, reference, band)


@pytest.mark.parametrize("layout", table("clipped_accumulated"))
def test_clipping_sees_the_accumulated_gradient(
    layout: Layout, outcome: Outcomes, reference: Reference, band: Bands
) -> None:
    check(layout, "clipped_accumulated", outcome, reference, band)


@pytest.mark.parametrize("layout", [p for p in table() if "gemini" in str(p.id)])
def test_gemini_is_really_sharded(layout: Layout, outcome: Outcomes) -> None:
    run = outcome(layout, "plain")
    assert run.chunks > 1
    assert run.sharded_chunks == run.chunks


@pytest.mark.parametrize("layout", table())
def test_eleven_labels_are_not_padded(layout: Layout, outcome: Outcomes) -> None:
    run = outcome(layout, "plain")
    assert run.labels == [*(f"digit {digit}" for digit in range(10)), "inverted"]
    assert run.weights["classifier.weight"].shape == (LABELS, 64)
    assert run.weights["classifier.bias"].shape == (LABELS,)
