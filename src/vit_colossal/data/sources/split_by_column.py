"""A column that says to which split each row belongs, in a data set that has one split alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

from vit_colossal.data.sources.labels import short
from vit_colossal.data.sources.tables import SPLIT_COLUMNS
from vit_colossal.errors import DataError

_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **{name: name for name in ("validation", "valid", "val", "dev", "test")},
}
#: Columns of truths, and the split of the rows where they hold.
_TRUTHS = {"is_valid": "validation", "is_val": "validation", "is_test": "test"}
_TRUE, _FALSE = ("true", "1", "1.0"), ("false", "0", "0.0")
# More values than this are no splits.
_FEW = 10


def divided(splits: dict[str, Any], *used: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Divide the only split by its column ``split``, ``subset``, ``partition``, ``set``, ….

    Args:
        splits: Rows by split.
        used: Columns that were named for something else.

    Returns:
        The splits and a note; the same and none where there is no such column, or the same and a
        note on one that names no splits.

    Raises:
        DataError: Some of its values name a split and others do not; or the rows are streamed, so
            that nobody knows what the column will say.
    """
    (rows,) = splits.values() if len(splits) == 1 else (None,)
    features = getattr(rows, "features", None) or {}
    found = [c for c in features if c.strip().lower() in SPLIT_COLUMNS and c not in used]
    if rows is None or len(found) != 1 or len(features) < 3:  # of two, it is the labels
        return splits, ()
    (column,) = found
    streamed = not hasattr(rows, "select")
    chosen = rows.select_columns([column])
    given = [row[column] for row in chosen.take(100)] if streamed else chosen[:][column]
    if hasattr(features[column], "names"):
        given = [value if value is None else features[column].names[value] for value in given]
    values = [_split(column, value) for value in given]
    counts = Counter(values)
    if "train" not in counts or (len(counts) < 2 and not streamed):
        others = sorted({str(value) for value in given})
        unused = len(others) <= _FEW and None in counts
        note = f"column {column!r} names no splits ({short(others)}), and is not used"
        return splits, (note,) * unused
    if streamed:
        raise DataError(
            [f"column {column!r} names splits, and a stream is not divided: leave out --streaming"]
        )
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
    places = {str(name): [i for i, v in enumerate(values) if v == name] for name in counts}
    return {name: rows.select(same) for name, same in places.items()}, (note,)


def _split(column: str, value: Any) -> str | None:
    """The split that a cell names; None is none."""
    text = str(value).strip().lower()
    other = _TRUTHS.get(column.strip().lower())
    if other is None:
        return _WORDS.get(text)
    return other if text in _TRUE else "train" if text in _FALSE else None
