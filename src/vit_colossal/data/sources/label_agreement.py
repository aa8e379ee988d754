"""How the labels of two splits agree: the training split decides, the other follows by name.

So a class has one number, in whatever order a file lists the names.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vit_colossal.data.sources.labels import UNLABELLED, Labels, refuse_unlabelled, short
from vit_colossal.errors import DataError
from vit_colossal.text import cell, did_you_mean


def in_training_order(labels: Labels, training: Labels, column: str, split: str) -> Labels:
    """The labels of another split as places in those of training.

    Args:
        labels: The other split's.
        training: The training split's.
        column: The column's name, for messages.
        split: The other split's name, for messages.

    Returns:
        ``training``'s names with the other split's places.

    Raises:
        DataError: Rows have no label, or one that training lacks; or names and numbers can be
            brought together in two ways.
    """
    refuse_unlabelled(labels, column, split)
    known = {name: place for place, name in enumerate(training.names)}
    used = [labels.names[place] for place in np.unique(labels.places)]
    notes = labels.notes
    by_place = _by_place(labels, training, used)
    if by_place is not None:
        known, note = by_place
        notes = (*notes, f"split {split!r}: {note}")
    else:
        _refuse_unknown(labels, training, used, column, split)
    table = np.array([known.get(name, UNLABELLED) for name in labels.names], dtype=np.int64)
    places = table[labels.places] if len(labels.places) else labels.places
    return replace(training, places=places, missing=(), notes=notes)


def _by_place(
    labels: Labels, training: Labels, used: list[str]
) -> tuple[dict[str, int], str] | None:
    """Numbers in one split for the class names of the other, if they can only be their places."""
    if {labels.kind, training.kind} != {"classes", "numbers"}:
        return None
    classes, numbers = (labels, training) if labels.kind == "classes" else (training, labels)
    values = [int(name) for name in numbers.names]
    # Counted from 1, they would not hold 0.
    if set(classes.names) & set(numbers.names) or not values or values[0] != 0:
        return None
    if values[-1] >= len(classes.names):
        return None
    places = {str(value): place for place, value in enumerate(values)}
    if labels is classes:
        known = {n: places[str(p)] for p, n in enumerate(classes.names) if str(p) in places}
    else:
        known = {str(value): value for value in values}
    if not set(used) <= known.keys():
        return None
    example = f"0 is {cell(classes.names[0])}, {values[-1]} is {cell(classes.names[values[-1]])}"
    return known, f"numbers are places among the class names: {example}"


def _refuse_unknown(
    labels: Labels, training: Labels, used: list[str], column: str, split: str
) -> None:
    unknown = [name for name in used if name not in training.names]
    kinds = {labels.kind, training.kind}
    fix = "choose another split with --eval-split"
    if not unknown:
        if kinds == {"classes", "numbers"} and _may_be_places(labels, training, used):
            raise DataError(
                [
                    f"split {split!r}: the numbers in column {column!r} may be names or places "
                    f"among the class names ({short(training.names)}); write the names, or {fix}"
                ]
            )
        return
    if "numbers" in kinds and len(kinds) == 2 and len(unknown) == len(used):
        raise DataError(
            [
                f"split {split!r}: column {column!r} holds {short(used)} where training holds "
                f"{short(training.names)}: name a column that is the same in both with "
                f"--label-column, or {fix}"
            ]
        )
    rows = int(np.isin(labels.places, [labels.names.index(name) for name in unknown]).sum())
    raise DataError(
        [
            f"split {split!r}: {column!r} has values outside of the {len(training.names)} labels "
            f"({short(unknown)}){_near(unknown[0], training.names)} in {rows:,} of "
            f"{len(labels.places):,} rows; {fix}"
        ]
    )


def _may_be_places(labels: Labels, training: Labels, used: list[str]) -> bool:
    """Whether class names that are numbers could be meant by name or by place, which differ."""
    classes = labels if labels.kind == "classes" else training
    values = [int(name) for name in used]
    fit = all(0 <= value < len(classes.names) for value in values)
    return fit and any(classes.names[value] != str(value) for value in values)


def _near(name: str, known: tuple[str, ...]) -> str:
    """The nearest of the known names as a question; one that differs in case is the nearest."""
    same = [other for other in known if other.casefold() == name.casefold()]
    return f" (did you mean {same[0]}?)" if same else did_you_mean(name, known)
