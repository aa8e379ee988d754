"""Data sets that are read once, in their order, straight into the cache.

What makes a data set too big for a disk are its originals; at the model's size the same images are
small. So a stream is decoded into the cache as it comes and nothing else is kept of it. From then
on it is shuffled, divided and evaluated like any other data set: exactly, in the same order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vit_colossal.data.cache import CacheOptions, prepare_rows
from vit_colossal.data.chosen_rows import choose_rows
from vit_colossal.data.pixels import META, CachedSplit
from vit_colossal.data.sources.chosen import ChosenData, RowNumbers
from vit_colossal.data.sources.columns import (
    find_columns,
    flat_features,
    is_plain,
    is_text,
    names_beside,
)
from vit_colossal.data.sources.images import mostly_encoded, undecoded
from vit_colossal.data.sources.label_agreement import in_training_order
from vit_colossal.data.sources.label_values import plain
from vit_colossal.data.sources.labels import Labels, has_labels, read_labels, short, training_labels
from vit_colossal.data.sources.loaded import Loaded
from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.split_by_column import divided
from vit_colossal.data.sources.split_names import matching
from vit_colossal.data.sources.splits import (
    choose_splits,
    choose_training,
    describe_split,
    fingerprint,
    hold_out,
    may_lack_labels,
    overview,
    parse_slice,
    rows_of_split,
    with_share,
)
from vit_colossal.data.stream_rows import StreamRows, first_values, known_features
from vit_colossal.errors import DataError
from vit_colossal.plan.recipe import LEAST_HELD_OUT


@dataclass(frozen=True, kw_only=True)
class StreamedSource(ChosenData):
    """Images that were decoded as they came.

    Attributes:
        train: Training images.
        evaluation: Evaluation images.
    """

    train: CachedSplit
    evaluation: CachedSplit


def read_streams(loaded: Loaded, request: SourceRequest, options: CacheOptions) -> StreamedSource:
    """Decode what is needed of a streamed data set, unless some process already did.

    The samples are those of ``sources.choose``, with one exception: when a part of the training
    split is held out and ``max_train_samples`` is given, it is held out of the first rows that
    leave so many, and not of all, so that the stream can be left early; by default a tenth.

    Args:
        loaded: A streamed data set.
        request: What was asked for.
        options: How to decode, and where to.

    Raises:
        DataError: It cannot be read, or cannot be used for classification.
    """
    loaded = divided(loaded, request.image_column, request.label_column)
    splits = _with_slices(loaded.splits, request)
    train_name = choose_training(request, splits)
    columns = _columns(splits[train_name], request)
    known = _first_labels(splits[train_name], columns[1])
    labelled = partial(_has_labels, splits, train_name, columns[1], known)
    choice = choose_splits(request, splits, labelled)
    eval_name = choice.evaluation
    request, limit = _limited(request, held_out=eval_name is None)
    reader = _Reader(loaded, columns, options, request.min_labels)
    if eval_name is not None:
        follow = reader.unread(splits, eval_name, request.max_eval_samples)
        reader = replace(reader, options=replace(options, images_to_follow=follow))
    train, labels = reader.read(splits, train_name, limit)
    beside = names_beside(_features(splits[train_name]), columns[1])
    notes = (*loaded.notes, *labels.notes, *(beside if labels.kind == "numbers" else ()))
    if eval_name is None:
        request = with_share(request, len(labels.places), len(labels.names))
        train, evaluation, eval_rows = _held_out(train, labels, request, train_name)
    else:
        reader = replace(reader, options=replace(options, split="evaluation"), labels=labels)
        evaluation, other = reader.read(splits, eval_name, request.max_eval_samples)
        notes += tuple(note for note in other.notes if note not in notes)
        eval_rows = rows_of_split(eval_name, range(len(evaluation) + len(evaluation.bad)))
    rows = (len(train) + len(train.bad), len(evaluation) + len(evaluation.bad))
    names = labels.names
    name, selection = describe_split(request, choice)
    if limit != request.max_train_samples:
        selection = f"{selection} of {limit}"
    content = fingerprint(loaded.content, train_name, selection, columns, names, rows)
    counts = {split: _known_count(splits[split], split, None) for split in splits}
    return StreamedSource(
        name=loaded.name,
        train=train,
        evaluation=evaluation,
        image_column=columns[0],
        label_column=columns[1],
        labels=names,
        eval_split=name,
        eval_rows=RowNumbers(eval_rows.split, eval_rows.numbers[: rows[1]]),
        held_out=request.share if eval_name is None else 0.0,
        fingerprint=content,
        notes=notes,
        overview=overview(choice, request, rows, counts, loaded.places),
    )


def _limited(request: SourceRequest, *, held_out: bool) -> tuple[SourceRequest, int | None]:
    """With the share to hold out of the first rows, and how many these are; None is all."""
    limit = request.max_train_samples
    if limit is None or not held_out:
        return request, limit
    share = request.val_split or LEAST_HELD_OUT
    return replace(request, val_split=share), _rows_that_leave(limit, share)


def _held_out(
    train: CachedSplit, labels: Labels, request: SourceRequest, name: str
) -> tuple[CachedSplit, CachedSplit, RowNumbers]:
    """The training split's rows to train on and to evaluate on, and the latter's numbers."""
    kept, held_out = hold_out(labels.places, request, name)
    return (
        choose_rows(train, kept[: request.max_train_samples]),
        choose_rows(train, held_out[: request.max_eval_samples]),
        rows_of_split(name, held_out),
    )


@dataclass(frozen=True)
class _Reader:
    """Reads splits of one data set; ``labels`` are those of training, once known."""

    loaded: Loaded
    columns: tuple[str, str]
    options: CacheOptions
    min_labels: int
    labels: Labels | None = None

    def entry(self, name: str, limit: int | None) -> Path:
        """Where the first ``limit`` rows of a split are kept."""
        return self.options.entry(self.loaded.content, "stream", name, str(limit), *self.columns)

    def unread(self, splits: dict[str, Any], name: str, limit: int | None) -> int:
        """How many rows have yet to be read, as far as that is known."""
        known = 0 if self.entry(name, limit).exists() else _known_count(splits[name], name, limit)
        return known or 0

    def read(
        self, splits: dict[str, Any], name: str, limit: int | None
    ) -> tuple[CachedSplit, Labels]:
        """The first ``limit`` rows of a split, and the labels of all, numbered as in training."""
        rows = splits[name]
        features = _features(rows)
        missing = [column for column in self.columns if column not in features]
        if missing:
            found = short(list(features))
            raise DataError([f"split {name!r}: no column {c!r}, only {found}" for c in missing])
        column = self.columns[1]
        count = _known_count(rows, name, limit)
        rows = undecoded(rows, self.columns[0], features[self.columns[0]])
        entry = self.entry(name, limit)
        training = self.labels.names if self.labels else ()
        more: dict[str, Any] = {"values": []}
        chunks = StreamRows(
            self.loaded.name,
            rows.take(limit) if limit else rows,
            self.columns,
            features[column],
            self.loaded.remote,
            training,
            more,
        )
        split = prepare_rows(entry, chunks, count, self.options, more)
        # Which label a row has was kept as the place of its value in `values`.
        values = json.loads((entry / META).read_text())["values"]
        cells = [values[place] for place in _in_order(split)]
        labels = read_labels(features[column], cells, column, name, training=training)
        if self.labels is None:
            whole = limit is None and name in self.loaded.splits
            labels = training_labels(labels, column, name, whole=whole, least=self.min_labels)
        else:
            labels = in_training_order(labels, self.labels, column, name)
        bad = tuple(i._replace(label=int(labels.places[i.number])) for i in split.bad)
        good = np.setdiff1d(np.arange(len(cells)), [image.number for image in bad])
        return CachedSplit(split.images, labels.places[good], bad), labels


def _in_order(split: CachedSplit) -> np.ndarray:
    """The labels of all rows of a split, the bad ones among them: int64 [N + bad]."""
    labels = np.empty(len(split) + len(split.bad), np.int64)
    bad = np.array([image.number for image in split.bad], np.int64)
    labels[bad] = [image.label for image in split.bad]
    labels[np.setdiff1d(np.arange(len(labels)), bad)] = split.labels
    return labels


def _columns(rows: Any, request: SourceRequest) -> tuple[str, str]:
    """The image and the label column of a stream; names of files are not looked for."""
    features, sample = _features(rows), partial(first_values, rows)
    columns = find_columns(features, request.image_column, request.label_column, sample)
    if not hasattr(features[columns[1]], "names") and not is_plain(features[columns[1]]):
        # Decimals, dates and lists: the first rows tell them before anything is decoded.
        read_labels(None, sample(columns[1]), columns[1], "train")
    if is_text(features[columns[0]]) and not mostly_encoded(sample(columns[0])):
        raise DataError(
            [
                f"--image-column {columns[0]}: names files, which a stream does not look for: "
                "leave out --streaming"
            ]
        )
    return columns


def _with_slices(splits: dict[str, Any], request: SourceRequest) -> dict[str, Any]:
    """The splits, and the parts of them that were asked for as ``train[:4500]``."""
    # First of all: the library decodes a hub's images in threads of its own, as a step that a later
    # cast would not undo. Where it knows no features yet, it has no such step.
    found = {
        name: rows.decode(num_threads=0) if rows.features else rows for name, rows in splits.items()
    }
    for name in filter(None, (request.train_split, request.eval_split)):
        part = parse_slice(name)
        if part is not None and (split := matching(part[0], splits)) is not None:
            start, stop = part[1] or 0, part[2]
            rows = found[split].skip(start)
            found[name] = rows if stop is None else rows.take(max(0, stop - start))
    return found


def _features(rows: Any) -> Any:
    """The columns and their types, parts of JSON among them."""
    return flat_features(known_features(rows))


def _first_labels(rows: Any, column: str) -> tuple[str, ...]:
    """The labels of training as far as its first rows tell; -1 is one of them, or an error."""
    names = getattr(_features(rows)[column], "names", None)
    return tuple(names or (str(plain(cell)) for cell in first_values(rows, column)))


def _has_labels(
    splits: dict[str, Any], train: str, column: str, training: tuple[str, ...], name: str
) -> bool:
    """Whether a split has labels, as far as its first rows tell."""
    features = _features(splits[name])
    if column not in features:
        return not may_lack_labels(name, features, _features(splits[train]))
    return has_labels(features[column], first_values(splits[name], column), training)


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
