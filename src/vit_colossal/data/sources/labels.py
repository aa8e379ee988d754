"""The classes of a label column: their names and order, and which rows are unlabelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vit_colossal.data.sources.label_values import (
    Label,
    Where,
    canonical,
    is_one_hot,
    plain,
)
from vit_colossal.errors import DataError
from vit_colossal.text import cell

#: Columns that are taken for labels by their name, in any case.
LABEL_COLUMNS = ("label", "labels", "class", "cls")
#: The place of a row that has no label.
UNLABELLED = -1
# Names that some program may have written for "nothing".
_DOUBTFUL = ("na", "n/a", "<na>", "nat", "null", "none")
# A column of identifiers: fewer rows than this say nothing about it.
_ROWS_TO_JUDGE_BY = 20


@dataclass(frozen=True)
class Labels:
    """A label column, read.

    Attributes:
        names: Label names in the order of their numbers.
        places: int64 [N]: each row's place in ``names``, ``UNLABELLED`` without a label.
        kind: Where the names come from: ``classes`` of a ``ClassLabel``, ``numbers`` or ``text``.
        missing: What the rows without a label hold, as text and sorted.
        notes: What a person should know, one line each.
    """

    names: tuple[str, ...]
    places: np.ndarray
    kind: Literal["classes", "numbers", "text"]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def unlabelled(self) -> bool:
        """Whether no row has a label."""
        return not (self.places >= 0).any()


def is_label(value: Any, training: Sequence[str] = ()) -> bool:
    """Whether a cell of a split other than training stands for a label.

    Args:
        value: The cell.
        training: The label names of the training split.

    Returns:
        False for nothing, an empty text or list, NaN, and -1 where training has no such label.
    """
    found = plain(value)
    return found is not None and (str(found) != "-1" or "-1" in training)


def has_labels(feature: Any, values: list[Any], training: Sequence[str]) -> bool:
    """Whether any row of a split other than training has a label; true of a split without rows.

    Args:
        feature: The column's type in ``datasets``.
        values: N cells.
        training: The label names of the training split.
    """
    feature, values = _unwrapped(feature, values)
    # Cells of a `ClassLabel` are places, and -1 is none, whatever the classes are called.
    known = () if hasattr(feature, "names") else training
    return not values or any(is_label(value, known) for value in values)


def read_labels(
    feature: Any,
    values: list[Any],
    column: str,
    split: str,
    *,
    where: Where | None = None,
    training: tuple[str, ...] = (),
) -> Labels:
    """Read a label column of one split.

    Args:
        feature: The column's type in ``datasets``; only class names are taken from it.
        values: N cells.
        column: The column's name, for messages.
        split: The split's name, for messages.
        where: Where a row stands, for messages; None is the split and the row's number.
        training: The label names of the training split, if this is another: -1 is a class if it
            is one of them.

    Raises:
        DataError: The cells are no classes; see ``label_values.canonical``.
    """
    feature, values = _unwrapped(feature, values)
    if hasattr(feature, "names"):
        return _of_classes(tuple(feature.names), values, column, split)
    found = canonical(values, column, where or (lambda row: f"split {split!r}, row {row}"))
    numbers = sorted({label for label in found if isinstance(label, int)})
    if not numbers:
        names = tuple(sorted({label for label in found if isinstance(label, str)}))
        return _placed(names, found, values, "text", _text_notes(values, found, column))
    # -1 stands for "none" beside 0 to n, and not where it is one of two classes or of a scale.
    marker = numbers[0] == -1 and numbers != [-1, 1] and "-1" not in training
    kept = [number for number in numbers if not (marker and number == -1)]
    notes = []
    if kept and kept[0] < 0:
        notes.append(f"column {column!r}: -1 is a label like others, and no mark of having none")
    if is_one_hot(next((value for value in values if plain(value) is not None), None)):
        notes.append(f"column {column!r} is one-hot: its labels are the places of the 1")
    if marker:
        found = [None if label == -1 else label for label in found]
    names = tuple(str(number) for number in kept)
    return _placed(names, found, values, "numbers", notes)


def training_labels(
    labels: Labels, column: str, split: str, *, whole: bool = True, least: int = 2
) -> Labels:
    """Check that a column can be trained on.

    Args:
        labels: The training split's.
        column: Its name, for messages.
        split: The split's name, for messages.
        whole: Whether these are all rows of the split, and each row is there once: then a column
            that has another label for nearly every row is seen to hold no classes.
        least: How many labels there have to be.

    Returns:
        The same.

    Raises:
        DataError: Rows have no label, there are too few labels, or one for every image.
    """
    refuse_unlabelled(labels, column, split)
    if len(labels.places) and len(labels.names) < least:
        count = len(labels.names)
        raise DataError(
            [f"the label column {column!r} has {count} label(s); classification needs {least}"]
        )
    rows, used = len(labels.places), np.bincount(labels.places, minlength=1)
    if whole and labels.kind != "classes" and rows >= _ROWS_TO_JUDGE_BY:
        single = int((used == 1).sum())
        if single > 0.9 * rows:
            raise DataError(
                [
                    f"--label-column {column}: {single:,} of {rows:,} images have a label of their "
                    f"own ({short(labels.names[:3])}, ...); choose the column of the classes"
                ]
            )
    return labels


def refuse_unlabelled(labels: Labels, column: str, split: str) -> None:
    """Raise DataError if rows have no label, or one beyond the names of the column's classes."""
    count, total = int((labels.places < 0).sum()), len(labels.places)
    if not count:
        return
    marks = ", ".join(labels.missing)
    doubt = ""
    if "-1" in labels.missing and labels.kind == "numbers" and not labels.unlabelled:
        doubt = "; if -1 is a class, write it as a name"
    raise DataError(
        [
            f"split {split!r}: {count:,} of {total:,} rows are unlabelled in column {column!r} "
            f"({marks}); remove them, or choose another split with --train-split or "
            f"--eval-split{doubt}"
        ]
    )


def _unwrapped(feature: Any, values: list[Any]) -> tuple[Any, list[Any]]:
    """A column of lists of one class each, as the column of the class."""
    inner = getattr(feature, "feature", None)
    if hasattr(inner, "names") and all(value is None or len(value) == 1 for value in values):
        return inner, [value and value[0] for value in values]
    return feature, values


def _of_classes(names: tuple[str, ...], values: list[Any], column: str, split: str) -> Labels:
    inside = [value is not None and 0 <= value < len(names) for value in values]
    beyond = {value for value in set(values) if value is not None and value >= len(names)}
    if beyond:
        found = short([str(value) for value in sorted(beyond)])
        raise DataError(
            [f"split {split!r}: {column!r} has values outside of the {len(names)} labels ({found})"]
        )
    # As text in a table is read: folders come from systems that store accents in two ways.
    tidy = tuple(str(plain(name) or name) for name in names)
    same = [name for name, count in Counter(tidy).items() if count > 1]
    if same:
        ways = "blanks around them or by how accents are stored"
        raise DataError(
            [f"split {split!r}: classes differ only by {ways} ({short(same)}): rename one"]
        )
    places = [v if ok else UNLABELLED for v, ok in zip(values, inside, strict=True)]
    missing = {str(v) for v, ok in zip(values, inside, strict=True) if not ok}
    return Labels(tidy, np.array(places, np.int64), "classes", tuple(sorted(missing)))


def _placed(
    names: tuple[str, ...],
    found: list[Label],
    values: list[Any],
    kind: Literal["numbers", "text"],
    notes: list[str],
) -> Labels:
    ids = {name: place for place, name in enumerate(names)}
    places = [UNLABELLED if label is None else ids[str(label)] for label in found]
    missing = {
        cell(str(value)) or "''"
        for value, label in zip(values, found, strict=True)
        if label is None
    }
    return Labels(names, np.array(places, np.int64), kind, tuple(sorted(missing)), tuple(notes))


def _text_notes(values: list[Any], found: list[Label], column: str) -> list[str]:
    """Names that may mean the same, or nothing: what was made of them."""
    counts = Counter(label for label in found if label is not None)
    same: dict[str, list[str]] = {}
    for name in sorted(map(str, counts)):
        same.setdefault(name.casefold(), []).append(f"{cell(name)} ({counts[name]})")
    notes = [
        f"column {column!r}: {' and '.join(names)} differ in case, and are different labels"
        for names in same.values()
        if len(names) > 1
    ][:5]
    doubtful = [f"{name} ({counts[name]})" for name in counts if str(name).lower() in _DOUBTFUL]
    if doubtful:
        notes.append(f"column {column!r}: {', '.join(doubtful)} is taken as a label's name")
    written = {value for value in values if isinstance(value, str)}
    bare = Counter(plain(value) for value in written)
    merged = [str(name) for name, ways in bare.items() if name is not None and ways > 1]
    if merged:
        ways = "blanks around them or by how accents are stored"
        notes.append(
            f"column {column!r}: one label each, differing only by {ways}: {short(merged)}"
        )
    return notes


def short(names: Sequence[str], most: int = 5) -> str:
    """The first few names, so that a thousand classes do not fill the screen."""
    shown = ", ".join(cell(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
