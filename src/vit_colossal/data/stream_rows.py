"""The rows of a stream: undecoded images, and labels numbered as they turn up."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from vit_colossal.data.decoding import Row
from vit_colossal.data.sources.images import SAMPLED
from vit_colossal.data.sources.label_values import plain
from vit_colossal.data.sources.labels import read_labels
from vit_colossal.errors import DataError
from vit_colossal.text import cell, hide_secrets

_CHUNK = 256
# Images that are files of their own are fetched so many at a time.
_CONNECTIONS = 16


@dataclass(frozen=True)
class StreamRows:
    """The rows of a stream, in chunks.

    Attributes:
        name: The data set, for messages.
        rows: An ``IterableDataset`` of undecoded images.
        columns: The image and the label column.
        feature: The label column's type.
        remote: Whether the library may have images fetched from the hub.
        training: The label names of the training split, once known.
        more: Gets ``values``: the labels as they turn up; a row's label is its place among them.
    """

    name: str
    rows: Any
    columns: tuple[str, str]
    feature: Any
    remote: bool
    training: tuple[str, ...]
    more: dict[str, Any]

    def __call__(self) -> Iterator[list[Row]]:
        image_column, label_column = self.columns
        seen: dict[Any, int] = {}
        number = 0
        try:
            rows = iter(self.rows)
            with ThreadPoolExecutor(_CONNECTIONS) as pool:
                while chunk := list(islice(rows, _CHUNK)):
                    images = list(pool.map(self._fetched, (row[image_column] for row in chunk)))
                    labels = [plain(_value(row, label_column)) for row in chunk]
                    self._check(labels, list(seen), number)
                    ids = [seen.setdefault(label, len(seen)) for label in labels]
                    self.more["values"] = list(seen)
                    numbers = range(number, number + len(chunk))
                    yield [Row(*values) for values in zip(numbers, images, ids, strict=True)]
                    number += len(chunk)
        except DataError:
            raise
        except Exception as error:  # whatever the network and the files' readers raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(
                [
                    f"--dataset {self.name}: the stream broke off after {number:,} rows "
                    f"({hide_secrets(reason)}); check the network and run it again"
                ]
            ) from error
        if not number:
            raise DataError([f"--dataset {self.name}: the split is empty: choose another"])

    def _check(self, values: list[Any], seen: list[Any], number: int) -> None:
        """Nobody should wait for the end of a long stream to hear that it has no labels."""
        column = self.columns[1]
        # What -1 means is told by all labels, as far as they are known: -2 makes it one of them.
        cells = [*seen, *values]
        labels = read_labels(self.feature, cells, column, self.name, training=self.training)
        # Nothing but -1 may be one of two classes, in a stream that is ordered by class.
        if labels.missing and (
            labels.missing != ("-1",) or labels.kind == "classes" or labels.names
        ):
            raise DataError(
                [
                    f"--dataset {self.name}: of the {len(values):,} rows from {number:,} on, "
                    f"{int((labels.places[len(seen) :] < 0).sum()):,} have no label in column "
                    f"{column!r} ({', '.join(labels.missing)}); choose another split with "
                    "--train-split or --eval-split"
                ]
            )

    def _fetched(self, value: Any) -> Any:
        """An image with its bytes, when it is a file of its own on the hub."""
        from datasets.utils.file_utils import xopen

        path = value.get("path") if isinstance(value, dict) and value.get("bytes") is None else None
        if not path:
            return value
        if not (self.remote and path.rpartition("::")[2].startswith("hf://")):
            raise DataError(
                [
                    f"--dataset {self.name}: rows name files ({cell(path)}) and hold no images; a "
                    "stream does not look for files: leave out --streaming"
                ]
            )
        with xopen(path, "rb") as stream:
            return {"bytes": stream.read(), "path": path.rpartition("/")[2]}


def known_features(rows: Any) -> Any:
    """The columns of an ``IterableDataset`` and their types; it may have to look at its rows."""
    return rows.features if rows.features is not None else rows._resolve_features().features


def first_values(rows: Any, column: str) -> list[Any]:
    """The first values of one of ``columns.flat_features``."""
    whole = column if column in known_features(rows) else column.partition(".")[0]
    return [_value(row, column) for row in islice(rows.select_columns([whole]), SAMPLED)]


def _value(row: dict[str, Any], column: str) -> Any:
    """What a row holds in one of ``columns.flat_features``."""
    whole, _, part = column.partition(".")
    return row[column] if column in row else (row[whole] or {}).get(part)
