"""Data sets that are read once, in their order, straight into the cache.

What makes a data set too big for a disk are its originals; at the model's size the same images are
small. So a stream is decoded into the cache as it comes and nothing else is kept of it. From then
on it is shuffled, divided and evaluated like any other data set: exactly, in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vit_colossal.data.cache import CachedSplit, CacheOptions, Pixels, prepare_rows
from vit_colossal.data.decoding import Row
from vit_colossal.data.sources.columns import find_columns, flat_features, named_labels, numbered
from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.source import Loaded
from vit_colossal.data.sources.splits import (
    choose_splits,
    describe_split,
    fingerprint,
    hold_out,
    parse_slice,
)
from vit_colossal.errors import DataError
from vit_colossal.redaction import hide_secrets

_CHUNK = 256
# Images that are files of their own are fetched so many at a time.
_CONNECTIONS = 16


@dataclass(frozen=True)
class StreamedSource:
    """Two splits of labelled images, decoded; see ``ImageSource`` for the other fields.

    Attributes:
        train: Training images.
        evaluation: Evaluation images.
    """

    name: str
    train: CachedSplit
    evaluation: CachedSplit
    labels: tuple[str, ...]
    eval_split: str
    fingerprint: str
    notes: tuple[str, ...] = ()


class ChosenImages:
    """Some of a split's images, in place of a copy of them.

    Args:
        images: uint8 [N, 3, H, W].
        rows: Which of them, int64 [M].
    """

    def __init__(self, images: Pixels, rows: np.ndarray) -> None:
        self._images, self._rows = images, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """[M, 3, H, W]."""
        return (len(self._rows), *self._images.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def __getitem__(self, places: Any) -> np.ndarray:
        return self._images[self._rows[places]]


def read_streams(loaded: Loaded, request: SourceRequest, options: CacheOptions) -> StreamedSource:
    """Decode what is needed of a streamed data set, unless some process already did.

    The samples are those of ``sources.choose``, with one exception: when a part of the training
    split is held out and ``max_train_samples`` is given, it is held out of the first rows that
    leave so many, and not of all, so that the stream can be left early.

    Args:
        loaded: A streamed data set.
        request: What was asked for.
        options: How to decode, and where to.

    Raises:
        DataError: It cannot be read, or cannot be used for classification.
    """
    splits = _with_slices(loaded.splits, request)
    train_name, eval_name = choose_splits(request, list(splits))
    features = _features(splits[train_name])
    columns = find_columns(features, request.image_column, request.label_column)
    name, selection = describe_split(request, train_name, eval_name)
    limit = request.max_train_samples
    if eval_name is None and limit is not None:
        limit = _rows_that_leave(limit, request.val_split)
        selection = f"{selection} of {limit}"
    reader = _Reader(loaded, columns, options)
    if eval_name is not None:
        follow = reader.unread(splits, eval_name, request.max_eval_samples)
        reader = replace(reader, options=replace(options, images_to_follow=follow))
    train, labels = reader.read(splits, train_name, limit)
    if eval_name is None:
        ids = np.empty(len(train) + len(train.bad), np.int64)
        bad = np.array([image.number for image in train.bad], np.int64)
        ids[bad] = [image.label for image in train.bad]
        ids[np.setdiff1d(np.arange(len(ids)), bad)] = train.labels
        kept, held_out = hold_out(ids, request, train_name)
        train, evaluation = (
            choose_rows(train, kept[: request.max_train_samples]),
            choose_rows(train, held_out[: request.max_eval_samples]),
        )
    else:
        reader = replace(reader, options=replace(options, split="evaluation"), labels=labels)
        evaluation, _ = reader.read(splits, eval_name, request.max_eval_samples)
    rows = (len(train) + len(train.bad), len(evaluation) + len(evaluation.bad))
    content = fingerprint(loaded.content, train_name, selection, columns, labels, rows)
    return StreamedSource(loaded.name, train, evaluation, labels, name, content, notes=loaded.notes)


def choose_rows(split: CachedSplit, numbers: list[int]) -> CachedSplit:
    """Some rows of a split, nothing copied.

    Args:
        split: N images and the bad ones, with numbers from 0 to N + bad - 1 in all.
        numbers: Which ones, in their new order.

    Returns:
        The chosen ones, renumbered.
    """
    bad = {image.number: image for image in split.bad}
    # The place of a good image: its number without the bad ones before it.
    places = np.array([n for n in numbers if n not in bad], np.int64)
    places -= np.searchsorted(np.array(sorted(bad), np.int64), places)
    left_out = tuple(
        bad[number]._replace(number=place) for place, number in enumerate(numbers) if number in bad
    )
    return CachedSplit(ChosenImages(split.images, places), split.labels[places], left_out)


@dataclass(frozen=True)
class _Reader:
    """Reads splits of one data set; ``labels`` are the names that training has, once known."""

    loaded: Loaded
    columns: tuple[str, str]
    options: CacheOptions
    labels: tuple[str, ...] | None = None

    def entry(self, name: str, limit: int | None) -> Path:
        """Where the first ``limit`` rows of a split are kept."""
        return self.options.entry(self.loaded.content, "stream", name, str(limit), *self.columns)

    def unread(self, splits: dict[str, Any], name: str, limit: int | None) -> int:
        """How many rows have yet to be read, as far as that is known."""
        known = 0 if self.entry(name, limit).exists() else _known_count(splits[name], name, limit)
        return known or 0

    def read(
        self, splits: dict[str, Any], name: str, limit: int | None
    ) -> tuple[CachedSplit, tuple[str, ...]]:
        """The first ``limit`` rows of a split, and the names of its labels."""
        rows = splits[name]
        features = _features(rows)
        missing = [column for column in self.columns if column not in features]
        if missing:
            raise DataError([f"split {name!r}: no column {column!r}" for column in missing])
        count = _known_count(rows, name, limit)
        rows = _undecoded(rows, features, self.columns[0])
        named_labels(features[self.columns[1]], [], self.columns[1])
        entry = self.entry(name, limit)
        more: dict[str, Any] = {"values": []}
        chunks = _Chunks(self.loaded.name, rows.take(limit) if limit else rows, self.columns, more)
        split = prepare_rows(entry, chunks, count, self.options, more)
        values = json.loads((entry / "meta.json").read_text())["values"]
        feature = features[self.columns[1]]
        names = named_labels(feature, values, self.columns[1])
        wanted = names if self.labels is None else self.labels
        # Which label a row has was kept as the place of its value in `values`.
        table = numbered(values, feature, wanted, name, self.columns[1])
        bad = tuple(image._replace(label=int(table[image.label])) for image in split.bad)
        return CachedSplit(split.images, table[split.labels], bad), wanted


@dataclass(frozen=True)
class _Chunks:
    """The rows of a stream, and in ``more`` the values of its labels as they turn up."""

    name: str
    rows: Any
    columns: tuple[str, str]
    more: dict[str, Any]

    def __call__(self) -> Iterator[list[Row]]:
        image_column, label_column = self.columns
        seen: dict[Any, int] = {}
        number = 0
        try:
            rows = iter(self.rows)
            with ThreadPoolExecutor(_CONNECTIONS) as pool:
                while chunk := list(islice(rows, _CHUNK)):
                    images = list(pool.map(_fetched, (row[image_column] for row in chunk)))
                    labels = [_value(row, label_column) for row in chunk]
                    ids = [seen.setdefault(label, len(seen)) for label in labels]
                    self._refuse_unlabelled(seen, number)
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

    def _refuse_unlabelled(self, seen: dict[Any, int], number: int) -> None:
        """Nobody should wait for the end of a long stream to hear that it has no labels."""
        if any(v is None or v == "" or (isinstance(v, int) and v < 0) for v in seen):
            raise DataError(
                [
                    f"--dataset {self.name}: rows from {number:,} on have no {self.columns[1]!r}; "
                    "choose another split with --train-split or --eval-split"
                ]
            )


def _value(row: dict[str, Any], column: str) -> Any:
    """What a row holds in one of :func:`flat_features`."""
    whole, _, part = column.partition(".")
    return row[column] if column in row else (row[whole] or {}).get(part)


def _fetched(encoded: dict[str, Any] | None) -> dict[str, Any] | None:
    """An image with its bytes, when it is a file of its own on the hub."""
    from datasets.utils.file_utils import xopen

    if not encoded or encoded["bytes"] is not None or "://" not in (encoded["path"] or ""):
        return encoded
    with xopen(encoded["path"], "rb") as stream:
        return {"bytes": stream.read(), "path": encoded["path"].rpartition("/")[2]}


def _with_slices(splits: dict[str, Any], request: SourceRequest) -> dict[str, Any]:
    """The splits, and the parts of them that were asked for as ``train[:4500]``."""
    # First of all: the library decodes a hub's images in threads of its own, as a step that a later
    # cast would not undo. Where it knows no features yet, it has no such step.
    found = {
        name: rows.decode(num_threads=0) if rows.features else rows for name, rows in splits.items()
    }
    for name in filter(None, (request.train_split, request.eval_split)):
        part = parse_slice(name)
        if part is not None and part[0] in splits:
            start, stop = part[1] or 0, part[2]
            rows = found[part[0]].skip(start)
            found[name] = rows if stop is None else rows.take(max(0, stop - start))
    return found


def _features(rows: Any) -> Any:
    """The columns and their types; of some formats only the first rows tell them."""
    known = rows.features if rows.features is not None else rows._resolve_features().features
    return flat_features(known)


def _undecoded(rows: Any, features: Any, image_column: str) -> Any:
    import datasets

    feature = features[image_column]
    if isinstance(feature, datasets.Image):
        return rows.cast_column(image_column, datasets.Image(decode=False))
    if isinstance(feature, dict) and {"bytes", "path"} <= feature.keys():
        return rows
    raise DataError([f"--image-column {image_column}: holds {feature}, not images"])


def _known_count(rows: Any, name: str, limit: int | None) -> int | None:
    """How many rows there will be, where the data set says so."""
    known = (rows.info.splits or {}).get(name)
    if known is None or not known.num_examples:
        return None
    return int(known.num_examples if limit is None else min(limit, known.num_examples))


def _rows_that_leave(wanted: int, share: float) -> int:
    """The smallest n of which ``wanted`` remain when ``share`` is held out as `hold_out` does."""
    count = int(wanted / (1 - share))
    while count - max(1, round(share * count)) < wanted:
        count += 1
    return count
