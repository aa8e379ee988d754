"""A column that says to which split each row belongs, in a data set that has one split alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vit_colossal.data.sources.images import SAMPLED
from vit_colossal.data.sources.labels import short
from vit_colossal.data.sources.loaded import Loaded
from vit_colossal.data.sources.split_names import names_only_a_split, split_of
from vit_colossal.errors import DataError

if TYPE_CHECKING:
    import datasets

#: Columns of truths, and the split of the rows where they hold.
_TRUTHS = {"is_valid": "validation", "is_val": "validation", "is_test": "test"}
#: Columns that may say to which split a row belongs.
SPLIT_COLUMNS = ("split", "subset", "partition", "set", *_TRUTHS)
_TRUE, _FALSE = ("true", "1", "1.0"), ("false", "0", "0.0")
# More values than this are no splits.
_FEW = 10


def divided(loaded: Loaded, *used: str | None) -> Loaded:
    """Divide the only split by its column ``split``, ``subset``, ``partition``, ``set``, ….

    Args:
        loaded: A data set. Its reader drops such a column where the names of folders tell splits.
        used: Columns that were named for something else.

    Returns:
        The data set with these splits and a note; the same where there is no such column, or the
        same with a note on one that names no splits.

    Raises:
        DataError: Some of its values name a split and others do not; or the rows are streamed, so
            that nobody knows what the column will say.
    """
    (rows,) = loaded.splits.values() if len(loaded.splits) == 1 else (None,)
    features = getattr(rows, "features", None) or {}
    found = [c for c in features if c.strip().lower() in SPLIT_COLUMNS and c not in used]
    if rows is None or len(found) != 1 or len(features) < 3:  # of two, it is the labels
        return loaded
    (column,) = found
    chosen = rows.select_columns([column])
    given = [r[column] for r in chosen.take(SAMPLED)] if loaded.streamed else chosen[:][column]
    if hasattr(features[column], "names"):
        given = [value if value is None else features[column].names[value] for value in given]
    values = [named_split(column, value) for value in given]
    counts = Counter(values)
    if loaded.streamed and counts.keys() - {None}:
        raise DataError(
            [f"column {column!r} names splits, and a stream is not divided: leave out --streaming"]
        )
    if "train" not in counts or len(counts) < 2:
        others = sorted({str(value) for value in given})
        if len(others) > _FEW or counts.keys() == {"train"}:
            return loaded
        what = "splits" if None in counts else "training split"
        note = f"column {column!r} names no {what} ({short(others)}), and is not used"
        return replace(loaded, notes=(*loaded.notes, note))
    if None in counts:
        names = sorted({str(v) for v, split in zip(given, values, strict=True) if split is None})
        raise DataError(
            [
                f"column {column!r} names splits in {len(values) - counts[None]:,} rows, and in "
                f"{counts[None]:,} it does not ({short(names)}): write train, validation or test"
            ]
        )
    read = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    note = f"splits are those of column {column!r}: {read} rows"
    splits = rows_of_splits(rows, [str(value) for value in values])
    places = {name: place for place in loaded.places.values() for name in splits}
    return replace(loaded, splits=splits, places=places, notes=(*loaded.notes, note))


def rows_of_splits(rows: datasets.Dataset, names: Sequence[str]) -> dict[str, datasets.Dataset]:
    """The rows of each split, in their order; ``names`` has each row's split."""
    places: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        places.setdefault(name, []).append(row)
    return {name: rows.select(same) for name, same in places.items()}


def named_split(column: str, value: Any) -> str | None:
    """The split that a cell of such a column names; None is none."""
    text = str(value).strip().lower()
    other = _TRUTHS.get(column.strip().lower())
    if other is None:
        return split_of(text) if names_only_a_split(text) else None
    return other if text in _TRUE else "train" if text in _FALSE else None
