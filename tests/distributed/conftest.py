"""One launch for all cases of a number of processes; the references, trained once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from layouts import GROUPS, LABELS, VARIANTS, Band, Layout, cases
from plain_loop import Images, PlainRun, Recipe, read_split, spread, train_plain

from launching import Launch, Outcome

#: fp32: only the order of sums differs. 14 steps were seen to differ by 3e-7 and 2e-6.
EXACT = Band(losses=2e-6, movement=1e-5)

Outcomes = Callable[[Layout, str], Outcome]
Reference = Callable[[Recipe], PlainRun]


@pytest.fixture(scope="session")
def outcome(eleven: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What a layout's run of a variant did. The first question to a group launches all of it.

    In a folder that all of pytest's processes share: one of them launches for all.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    @cache
    def launch(group: str) -> Launch:
        chosen = cases(group, eleven)
        return Launch(folder / group, GROUPS[group], chosen)

    return lambda layout, variant: launch(layout.group).outcome(f"{layout.name}.{variant}")


@pytest.fixture(scope="session")
def train_images(eleven: Path) -> Images:
    return read_split(eleven, "train")


@pytest.fixture(scope="session")
def eval_images(eleven: Path) -> Images:
    return read_split(eleven, "validation")


@pytest.fixture(scope="session")
def reference(train_images: Images) -> Reference:
    """The plain loop's run of a recipe."""
    return cache(lambda recipe: train_plain(train_images, recipe, LABELS))


@pytest.fixture(scope="session")
def band(reference: Reference) -> Callable[[Layout, str], Band]:
    """How far a layout's run of a variant may lie from the plain loop's.

    In fp32 the bounds are given. 16 bits show in which order a layout sums, and how much the loop
    tells itself: it sums each batch in 1, 2, 4 and 8 parts, all equally right. Three times the
    largest distance between any two of these and the reference is allowed.
    """

    @cache
    def measure(variant: str, precision: str, of_reference: str) -> Band:
        recipe = VARIANTS[variant].recipe
        recipes = [replace(recipe, precision=precision, parts=parts) for parts in (1, 2, 4, 8)]
        runs = [reference(r) for r in (*recipes, replace(recipe, precision=of_reference))]
        losses, moved = spread(runs)
        return Band(3 * losses, 3 * moved)

    def choose(layout: Layout, variant: str) -> Band:
        if layout.exact:
            return EXACT
        return measure(variant, layout.loop_precision, layout.reference_precision)

    return choose
