"""Which columns hold the images and labels, and whether every label is usable."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_colossal.errors import DataError

if TYPE_CHECKING:
    import datasets

LABEL_COLUMNS = ("label", "labels", "class", "cls")
#: Columns that `datasets` gives the samples of a WebDataset, which have no names of their own.
_SHARD_KEY = "__key__"
_SHARD_LABELS = ("txt", "json", *(f"json.{name}" for name in LABEL_COLUMNS))
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})")


def find_columns(
    features: datasets.Features, image_column: str | None, label_column: str | None
) -> tuple[str, str]:
    """Find the image and the label column.

    Args:
        features: The columns and their types.
        image_column: Its name, if it was given.
        label_column: Its name, if it was given.

    Returns:
        The only ``Image`` column and the only ``ClassLabel`` column; without a ``ClassLabel`` the
        only column of strings or whole numbers that is called ``label``, ``labels``, ``class`` or
        ``cls``, or else the only column beside the images. Of shards it may be the text or a part
        of the JSON, as in local ones.

    Raises:
        DataError: There is none, or several.
    """
    import datasets

    images = [c for c, f in features.items() if isinstance(f, datasets.Image)]
    # Files that were not written by the library hold the same structure without its name.
    images = images or [c for c, f in features.items() if isinstance(f, dict) and "bytes" in f]
    labels = [c for c, f in features.items() if isinstance(f, datasets.ClassLabel)]
    labels = labels or [c for c in LABEL_COLUMNS if _is_plain(features.get(c))]
    if _SHARD_KEY in features:
        labels = labels or [c for c in _SHARD_LABELS if _is_plain(features.get(c))][:1]
        if label_column not in features and f"json.{label_column}" in features:
            label_column = f"json.{label_column}"
    if not labels and len(features) == 2:
        labels = [c for c, f in features.items() if c not in images and _is_plain(f)]
    chosen, problems = [], []
    for what, asked, candidates in (
        ("image", image_column, images),
        ("label", label_column, labels),
    ):
        if asked is not None and asked in features:
            candidates = [asked]
        elif asked is not None:
            problems.append(f"--{what}-column {asked}: no such column, only {', '.join(features)}")
            continue
        if len(candidates) == 1:
            chosen.append(candidates[0])
        elif candidates:
            found = ", ".join(candidates)
            problems.append(f"several {what} columns: choose one of {found} with --{what}-column")
        else:
            found = ", ".join(features)
            problems.append(f"no {what} column found: name it with --{what}-column (of {found})")
    if problems:
        raise DataError(problems)
    return chosen[0], chosen[1]


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


def plain_label(value: Any) -> str | int:
    """A label as a file gave it: text or a whole number.

    Args:
        value: Anything that CSV or JSON can hold.

    Returns:
        The text without surrounding blanks, or the number.

    Raises:
        ValueError: There is none, or it is something else.
    """
    if isinstance(value, str):
        value = value.strip()
        missing = not value or value.lower() == "nan"
    else:
        missing = value is None or (isinstance(value, float) and math.isnan(value))
    if missing:
        raise ValueError("no label")
    if isinstance(value, float) and value.is_integer():
        return int(value)  # what other libraries make of numbers beside missing ones
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"label {str(value)[:40]} is neither text nor a whole number")
    return value


def labelled_images(
    image_column: str, paths: list[str], label_column: str, labels: list[str | int]
) -> datasets.Dataset:
    """Rows of undecoded images and plain labels.

    Args:
        image_column: Name of the image column.
        paths: Where the images are.
        label_column: Name of the label column.
        labels: What :func:`plain_label` returned; they become whole numbers if all of them are,
            so that 10 comes after 9.

    Returns:
        The rows.
    """
    import datasets

    numbers = all(_WHOLE_NUMBER.fullmatch(str(label)) for label in labels)
    values = [int(label) if numbers else str(label) for label in labels]
    features = datasets.Features(
        {
            image_column: datasets.Image(),
            label_column: datasets.Value("int64" if numbers else "string"),
        }
    )
    rows = {image_column: paths, label_column: values}
    return datasets.Dataset.from_dict(rows, features=features)


def label_names(dataset: datasets.Dataset, column: str) -> tuple[str, ...]:
    """List the labels.

    Args:
        dataset: The training rows.
        column: The label column.

    Returns:
        The names of a ``ClassLabel``, or the sorted values of a column of strings or numbers.

    Raises:
        DataError: The column holds something else, or fewer than two labels.
    """
    return named_labels(dataset.features[column], column_values(dataset, column), column)


def named_labels(feature: Any, values: list[Any], column: str) -> tuple[str, ...]:
    """List the labels of a column with this type and these values; see :func:`label_names`."""
    if hasattr(feature, "names"):
        names = tuple(feature.names)
    elif _is_plain(feature):
        given = {value for value in set(values) if value is not None and str(value).strip()}
        names = tuple(str(value) for value in sorted(given))
    else:
        raise DataError(
            [f"--label-column {column}: holds {feature}, not class labels, strings or numbers"]
        )
    if values and len(names) < 2:
        raise DataError(
            [f"the label column {column!r} has {len(names)} label(s); classification needs 2"]
        )
    return names


def numbered(
    values: list[Any], feature: Any, labels: tuple[str, ...], split: str, column: str
) -> np.ndarray:
    """Turn a column's values into places in ``labels``.

    Args:
        values: N values of the column.
        feature: The column's type.
        labels: The label names of the training split.
        split: The split's name, for messages.
        column: The label column.

    Returns:
        int64 [N].

    Raises:
        DataError: Values are outside of ``labels``.
    """
    if hasattr(feature, "names"):
        if tuple(feature.names) != labels:
            odd = sorted(set(feature.names) ^ set(labels)) or ["the order"]
            raise DataError(
                [f"split {split!r}: its labels differ from the training labels in {_short(odd)}"]
            )
        unknown = {str(v) for v in values if v is None or not 0 <= v < len(labels)}
        ids: dict[Any, int] = {i: i for i in range(len(labels))}
    else:
        known = {name: i for i, name in enumerate(labels)}
        ids = {v: known[str(v)] for v in values if str(v) in known}
        negative = {v for v in ids if isinstance(v, int) and v < 0}
        unknown = {str(v) or "''" for v in values if v not in ids or v in negative}
    if unknown:
        raise DataError(
            [
                f"split {split!r}: {column!r} has values outside of the {len(labels)} labels "
                f"({_short(sorted(unknown))}); unlabelled splits cannot be used, choose another "
                "with --train-split or --eval-split"
            ]
        )
    return np.array([ids[value] for value in values], dtype=np.int64)


def checked(
    dataset: datasets.Dataset,
    split: str,
    image_column: str,
    label_column: str,
    labels: tuple[str, ...],
) -> datasets.Dataset:
    """Bring a split into the form that the rest relies on.

    Args:
        dataset: The split's rows.
        split: Its name, for messages.
        image_column: The image column.
        label_column: The label column.
        labels: The label names of the training split.

    Returns:
        The rows with just these columns, as ``Image`` and ``ClassLabel(labels)``.

    Raises:
        DataError: The split is empty, lacks a column, or has labels outside of ``labels``.
    """
    import datasets

    missing = [c for c in (image_column, label_column) if c not in dataset.features]
    if missing:
        raise DataError([f"split {split!r}: no column {column!r}" for column in missing])
    if not len(dataset):
        raise DataError([f"split {split!r} is empty: choose another split"])
    dataset = dataset.select_columns([image_column, label_column])
    if not isinstance(dataset.features[image_column], datasets.Image):
        dataset = _cast_to_image(dataset, image_column)
    feature, values = dataset.features[label_column], column_values(dataset, label_column)
    numbers = numbered(values, feature, labels, split, label_column)
    if not isinstance(feature, datasets.ClassLabel):
        dataset = dataset.remove_columns(label_column).add_column(
            label_column, numbers, feature=datasets.ClassLabel(names=list(labels))
        )
    return dataset


def _cast_to_image(dataset: datasets.Dataset, column: str) -> datasets.Dataset:
    import datasets

    try:
        return dataset.cast_column(column, datasets.Image())
    except Exception as error:  # Arrow and the library each have their own types
        feature = dataset.features[column]
        raise DataError([f"--image-column {column}: holds {feature}, not images"]) from error


def _is_plain(feature: Any) -> bool:
    """Whether the feature is a column of strings or whole numbers."""
    return str(getattr(feature, "dtype", "")).startswith(("string", "large_string", "int", "uint"))


def column_values(dataset: datasets.Dataset, column: str) -> list[Any]:
    """The values of one column, without reading the others (the images)."""
    return dataset.select_columns([column])[:][column]


def _short(names: list[str]) -> str:
    """At most five names, so that a thousand classes do not fill the screen."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
