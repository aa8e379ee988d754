"""A column that says to which split each row belongs, in a data set that has one split alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from vit_colossal.data.sources.images import SAMPLED
from vit_colossal.data.sources.labels import LABEL_COLUMNS, short
from vit_colossal.data.sources.loaded import Loaded
from vit_colossal.data.sources.split_names import names_only_a_split, split_of
from vit_colossal.errors import DataError

if TYPE_CHECKING:
    import datasets

#: Columns of truths, and the splits of the rows where they hold and where they do not.
_TRUTHS = {
    **dict.fromkeys(("is_valid", "is_val"), ("validation", "train")),
    "is_test": ("test", "train"),
    **dict.fromkeys(("is_train", "is_training"), ("train", "test")),
}
#: Columns that are there to say to which split a row belongs; others may, if all of them do.
_SPLIT_COLUMNS = ("split", "subset", "partition", "set", "data_split", "usage", *_TRUTHS)
_TRUE, _FALSE = ("true", "1", "1.0"), ("false", "0", "0.0")
# More values than this are no splits.
_FEW = 10


def divided(loaded: Loaded, *used: str | None) -> Loaded:
    """Divide the only split by a column that names splits: ``split``, ``subset``, ….

    Args:
        loaded: A data set. Its reader drops such a column where the names of folders tell splits.
        used: Columns that were named for something else.

    Returns:
        The data set with these splits and a note; the same where there is no such column, or the
        same with a note on one that names no splits.

    Raises:
        DataError: Some of its values name a split and others do not; two columns divide the rows
            in two ways; or the rows are streamed, so that nobody knows what the column will say.
    """
    (rows,) = loaded.splits.values() if len(loaded.splits) == 1 else (None,)
    features = getattr(rows, "features", None) or {}
    if rows is None or len(features) < 3:  # of two, it is the labels
        return loaded
    found = {}
    for column, feature in features.items():
        names = getattr(feature, "names", None)
        text = names or str(getattr(feature, "dtype", "")).endswith("string")
        if column in used or not (text or _is_called_split(column)):
            continue
        chosen = rows.select_columns([column])
        given = _values([row[column] for row in islice(chosen, SAMPLED)], names)
        if may_divide(column, given):
            found[column] = given if loaded.streamed else _values(chosen[:][column], names)
    if loaded.streamed:
        _refuse_streamed(found)
    column, notes = _dividing(found)
    if column is None:
        return replace(loaded, notes=(*loaded.notes, *notes))
    values = [str(named_split(column, value)) for value in found[column]]
    read = ", ".join(f"{name} {count:,}" for name, count in Counter(values).items())
    notes = (f"splits are those of column {column!r}: {read} rows", *notes)
    splits = rows_of_splits(rows, values)
    places = {name: place for place in loaded.places.values() for name in splits}
    return replace(loaded, splits=splits, places=places, notes=(*loaded.notes, *notes))


def may_divide(column: str, values: Sequence[Any]) -> bool:
    """Whether a column may say to which split a row belongs.

    Args:
        column: Its name.
        values: Its first cells, or all of them.

    Returns:
        True if it is called so, or if each cell names a split and nothing else, and it is not
        called like labels.
    """
    if _is_called_split(column):
        return True
    called_label = column.strip().lower() in LABEL_COLUMNS
    return not called_label and bool(values) and all(named_split(column, v) for v in values)


def parts_of(columns: Mapping[str, Sequence[Any]]) -> Sequence[str | None] | None:
    """The split of each row by the first of some columns that names several, train among them."""
    for column, values in columns.items():
        parts = [named_split(column, value) for value in values]
        if "train" in parts and len(set(parts)) > 1:
            return parts
    return None


def rows_of_splits(rows: datasets.Dataset, names: Sequence[str]) -> dict[str, datasets.Dataset]:
    """The rows of each split, in their order; ``names`` has each row's split."""
    places: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        places.setdefault(name, []).append(row)
    return {name: rows.select(same) for name, same in places.items()}


def named_split(column: str, value: Any) -> str | None:
    """The split that a cell of such a column names; None is none."""
    text = str(value).strip().lower()
    truth = _TRUTHS.get(_spelled(column))
    if truth is None:
        return split_of(text) if names_only_a_split(text) else None
    return truth[0] if text in _TRUE else truth[1] if text in _FALSE else None


def _dividing(columns: Mapping[str, Sequence[Any]]) -> tuple[str | None, tuple[str, ...]]:
    """The column that divides the rows, and lines about those that do not."""
    parts = {c: [named_split(c, value) for value in values] for c, values in columns.items()}
    counts = {column: Counter(named) for column, named in parts.items()}
    several = [c for c, found in counts.items() if "train" in found and len(found) > 1]
    whole = [column for column in several if None not in counts[column]]
    whole = whole or [column for column in several if _is_called_split(column)]
    notes = [_says_nothing(c, columns[c], counts[c]) for c in columns if c not in several]
    if not whole:
        return None, tuple(filter(None, notes))
    first = max(whole, key=lambda column: len(counts[column]))
    if None in counts[first]:
        pairs = zip(columns[first], parts[first], strict=True)
        names = sorted({str(value) or "''" for value, split in pairs if split is None})
        raise DataError(
            [
                f"column {first!r} names splits in {counts[first].total() - counts[first][None]:,} "
                f"rows, and in {counts[first][None]:,} it does not ({short(names)}): write train, "
                "validation or test"
            ]
        )
    for other in whole:
        if other != first and not _agree(parts[first], parts[other]):
            ways = " and ".join(
                f"{column!r} ({', '.join(f'{n} {count:,}' for n, count in counts[column].items())})"
                for column in (first, other)
            )
            raise DataError(
                [f"columns {ways} divide the rows in two ways: rename the one that is not meant"]
            )
    return first, tuple(filter(None, notes))


def _agree(fine: Sequence[str | None], coarse: Sequence[str | None]) -> bool:
    """Whether one division follows from another: ``is_test`` from train, validation and test."""
    pairs = set(zip(fine, coarse, strict=True))
    return len(pairs) == len(set(fine)) and ("train", "train") in pairs


def _says_nothing(column: str, values: Sequence[Any], counts: Counter[str | None]) -> str:
    """A line about a column that is called so and does not divide."""
    others = sorted({str(value) for value in values})
    if not _is_called_split(column) or len(others) > _FEW or counts.keys() == {"train"}:
        return ""
    what = "splits" if None in counts else "training split"
    return f"column {column!r} names no {what} ({short(others)}), and is not used"


def _refuse_streamed(columns: Mapping[str, Sequence[Any]]) -> None:
    for column, values in columns.items():
        splits = {named_split(column, value) for value in values} - {None}
        if splits and (_is_called_split(column) or len(splits) > 1):
            raise DataError(
                [
                    f"column {column!r} names splits, and a stream is not divided: leave out "
                    "--streaming"
                ]
            )


def _values(values: Sequence[Any], names: Sequence[str] | None) -> list[Any]:
    """Cells, those of a ``ClassLabel`` by name."""
    return [names[v] if names and v is not None and v >= 0 else v for v in values]


def _spelled(column: str) -> str:
    return re.sub(r"[-_ ]+", "_", column.strip().lower())


def _is_called_split(column: str) -> bool:
    return _spelled(column) in _SPLIT_COLUMNS
