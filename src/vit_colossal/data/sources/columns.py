"""Which columns hold the images and labels, and rows in the form that the rest relies on."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from vit_colossal.data.sources.images import (
    SAMPLED,
    addresses_refused,
    may_be_images,
    text_columns,
    type_refused,
)
from vit_colossal.data.sources.label_agreement import in_training_order
from vit_colossal.data.sources.label_values import as_text
from vit_colossal.data.sources.labels import LABEL_COLUMNS, Labels, read_labels, short
from vit_colossal.errors import DataError

if TYPE_CHECKING:
    import datasets

#: Columns that `datasets` gives the samples of a WebDataset, which have no names of their own.
_SHARD_KEY = "__key__"
_SHARD_LABELS = ("txt", "json", *(f"json.{name}" for name in LABEL_COLUMNS))
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})")
_LISTED_COLUMNS = 12

#: The first values of a column.
Sample = Callable[[str], list[Any]]


def find_columns(
    features: datasets.Features, image_column: str | None, label_column: str | None, sample: Sample
) -> tuple[str, str]:
    """Find the image and the label column.

    Args:
        features: The columns and their types.
        image_column: Its name, if it was given.
        label_column: Its name, if it was given.
        sample: The first values of a column of text: paths, base64 or data URIs are images.

    Returns:
        The only column of images, by its type or else by what its text holds; and the only
        ``ClassLabel`` column, or else the only one that is called ``label``, ``labels``, ``class``
        or ``cls``, or else the only column beside the images. Of shards it may be the text or a
        part of the JSON, as in local ones.

    Raises:
        DataError: There is none, or several; or the one that was named holds something else.
    """
    labels = [c for c, f in features.items() if hasattr(getattr(f, "feature", f), "names")]
    labels = labels or [c for c in features if c.strip().lower() in LABEL_COLUMNS]
    if _SHARD_KEY in features:
        labels = labels or [c for c in _SHARD_LABELS if is_plain(features.get(c))][:1]
        if label_column not in features and f"json.{label_column}" in features:
            label_column = f"json.{label_column}"
    images = image_columns(features, sample, labels)
    if not labels and len(features) == 2:
        labels = [c for c in features if c not in images]
    kinds = ("image column", "label column")
    asked = image_column, label_column
    found = choose_columns(features, asked, (images, labels), kinds)
    refused = type_refused(features[found[0]], found[0])
    if refused is None and is_text(features[found[0]]):
        refused = addresses_refused(found[0], sample(found[0]))
    if refused:
        raise DataError([refused])
    return found


def choose_columns(
    names: Iterable[str],
    asked: tuple[str | None, str | None],
    candidates: tuple[list[str], list[str]],
    kinds: tuple[str, str],
) -> tuple[str, str]:
    """Choose the image and the label column.

    Args:
        names: All columns.
        asked: What was named by flags.
        candidates: The columns that fit.
        kinds: What is missing where none fits, for messages.

    Raises:
        DataError: None fits, or several do, or there is no column of that name.
    """
    chosen, problems = [], []
    every = short(list(names), _LISTED_COLUMNS)
    for what, name, found, kind in zip(("image", "label"), asked, candidates, kinds, strict=True):
        if name is not None and name not in names:
            problems.append(f"--{what}-column {name}: no such column, only {every}")
        elif name is not None:
            chosen.append(name)
        elif len(found) == 1:
            chosen.append(found[0])
        elif found:
            several = short(found, _LISTED_COLUMNS)
            problems.append(f"several {what} columns: choose one of {several} with --{what}-column")
        else:
            problems.append(f"no {kind} found: name it with --{what}-column (of {every})")
    if problems:
        raise DataError(problems)
    return chosen[0], chosen[1]


def names_beside(names: Iterable[str], label_column: str) -> tuple[str, ...]:
    """A note on columns that may hold the names of labels that are numbers."""
    stem = label_column.strip().lower().rstrip("s")
    others = [
        n for n in names if n != label_column and re.search(rf"{re.escape(stem)}|class", n.lower())
    ]
    if not others:
        return ()
    return (
        f"labels are the numbers in column {label_column!r}; for those in {short(others)}, name "
        "it with --label-column",
    )


def flat_features(features: datasets.Features) -> datasets.Features:
    """The columns, and of shards from the hub each part of the JSON as one: ``json.label``."""
    return features.flatten() if _SHARD_KEY in features else features


def flat(dataset: datasets.Dataset) -> datasets.Dataset:
    """The rows with the columns of :func:`flat_features`; nothing is copied."""
    return dataset.flatten() if _SHARD_KEY in dataset.features else dataset


def whole_number_or_text(content: bytes) -> int | str:
    """A label as a member of a shard holds it."""
    text = content.decode().strip()
    return int(text) if _WHOLE_NUMBER.fullmatch(text) else text


def labelled_images(
    image_column: str, images: list[Any], label_column: str, labels: list[Any] | None
) -> datasets.Dataset:
    """Rows of undecoded images and plain labels.

    Args:
        image_column: Name of the image column.
        images: Where the images are, or their bytes.
        label_column: Name of the label column.
        labels: Cells as a file held them; None is a split that has no labels.

    Returns:
        The rows, with labels as text: JSON can hold cells of several types.
    """
    import datasets

    features = datasets.Features({image_column: datasets.Image()})
    rows: dict[str, list[Any]] = {image_column: images}
    if labels is not None:
        features[label_column] = datasets.Value("string")
        rows[label_column] = [as_text(label) for label in labels]
    return datasets.Dataset.from_dict(rows, features=features)


def labels_of(
    dataset: datasets.Dataset, column: str, split: str, training: tuple[str, ...] = ()
) -> Labels:
    """Read the label column of one split; see :func:`labels.read_labels`."""
    values = column_values(dataset, column)
    return read_labels(dataset.features[column], values, column, split, training=training)


def checked(
    dataset: datasets.Dataset,
    split: str,
    image_column: str,
    label_column: str,
    training: Labels,
) -> tuple[datasets.Dataset, tuple[str, ...]]:
    """Bring a split into the form that the rest relies on.

    Args:
        dataset: The split's rows.
        split: Its name, for messages.
        image_column: The image column.
        label_column: The label column.
        training: The labels of the training split.

    Returns:
        The rows with just these columns, as images and ``ClassLabel(training.names)``; and notes.

    Raises:
        DataError: The split is empty, lacks a column, or has labels that training does not have.
    """
    import datasets

    missing = [c for c in (image_column, label_column) if c not in dataset.features]
    if missing:
        found = short(list(dataset.features), _LISTED_COLUMNS)
        raise DataError(
            [f"split {split!r}: no column {column!r}, only {found}" for column in missing]
        )
    if not len(dataset):
        raise DataError([f"split {split!r} is empty: choose another split"])
    dataset = dataset.select_columns([image_column, label_column])
    feature = dataset.features[image_column]
    refused = type_refused(feature, image_column)
    if refused:
        raise DataError([refused])
    if isinstance(feature, dict):
        dataset = dataset.cast_column(image_column, datasets.Image())
    labels = labels_of(dataset, label_column, split, training.names)
    labels = in_training_order(labels, training, label_column, split)
    dataset = dataset.remove_columns(label_column).add_column(
        label_column, labels.places, feature=datasets.ClassLabel(names=list(training.names))
    )
    return dataset, labels.notes


def sampler(rows: Any) -> Sample:
    """The first values of a column of a ``Dataset`` or ``IterableDataset``."""

    def sample(column: str) -> list[Any]:
        return [row[column] for row in islice(rows.select_columns([column]), SAMPLED)]

    return sample


def column_values(dataset: datasets.Dataset, column: str) -> list[Any]:
    """The values of one column, without reading the others (the images)."""
    values: list[Any] = dataset.select_columns([column])[:][column]
    return values


def image_columns(
    features: datasets.Features, sample: Sample, labels: Collection[str] = LABEL_COLUMNS
) -> list[str]:
    """Columns of images by their type, or else by what their text holds."""
    import datasets

    others = [column for column in features if column not in labels]
    for fits in (
        lambda feature: isinstance(feature, datasets.Image),
        # Files that were not written by the library hold the same structure without its name.
        lambda feature: isinstance(feature, dict) and "bytes" in feature,
        may_be_images,
    ):
        found = [c for c, feature in features.items() if fits(feature) and c in others]
        if found:
            return found
    texts = [c for c in others if is_text(getattr(features[c], "feature", features[c]))]
    return text_columns({c: sample(c) for c in texts})


def is_text(feature: Any) -> bool:
    """Whether the feature is a column of strings."""
    return str(getattr(feature, "dtype", "")).endswith("string")


def is_plain(feature: Any) -> bool:
    """Whether the feature is a column of strings or whole numbers."""
    return str(getattr(feature, "dtype", "")).startswith(("string", "large_string", "int", "uint"))
