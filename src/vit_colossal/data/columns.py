"""Which columns hold the images and labels, and whether every label is usable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vit_colossal.errors import DataError

if TYPE_CHECKING:
    import datasets

LABEL_COLUMNS = ("label", "labels", "class")


def find_columns(
    dataset: datasets.Dataset, image_column: str | None, label_column: str | None
) -> tuple[str, str]:
    """Find the image and the label column.

    Args:
        dataset: Rows.
        image_column: Its name, if it was given.
        label_column: Its name, if it was given.

    Returns:
        The only ``Image`` column and the only ``ClassLabel`` column; without a ``ClassLabel`` the
        only column of strings or whole numbers that is called ``label``, ``labels`` or ``class``.

    Raises:
        DataError: There is none, or several.
    """
    import datasets

    features = dataset.features
    images = [c for c, f in features.items() if isinstance(f, datasets.Image)]
    # Files that were not written by the library hold the same structure without its name.
    images = images or [c for c, f in features.items() if isinstance(f, dict) and "bytes" in f]
    labels = [c for c, f in features.items() if isinstance(f, datasets.ClassLabel)]
    labels = labels or [c for c in LABEL_COLUMNS if _is_plain(features.get(c))]
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
    feature = dataset.features[column]
    if hasattr(feature, "names"):
        names = tuple(feature.names)
    elif _is_plain(feature):
        values = {value for value in column_values(dataset, column) if value is not None}
        names = tuple(str(value) for value in sorted(values))
    else:
        raise DataError(
            [f"--label-column {column}: holds {feature}, not class labels, strings or numbers"]
        )
    if len(dataset) and len(names) < 2:
        raise DataError(
            [f"the label column {column!r} has {len(names)} label(s); classification needs 2"]
        )
    return names


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
    if isinstance(feature, datasets.ClassLabel):
        if tuple(feature.names) != labels:
            odd = sorted(set(feature.names) ^ set(labels)) or ["the order"]
            raise DataError(
                [f"split {split!r}: its labels differ from the training labels in {_short(odd)}"]
            )
        unknown = sorted({str(v) for v in values if v is None or not 0 <= v < len(labels)})
    else:
        ids = {name: i for i, name in enumerate(labels)}
        negative = {str(v) for v in values if v is None or (isinstance(v, int) and v < 0)}
        unknown = sorted({str(v) for v in values if str(v) not in ids} | negative)
        column = [ids.get(str(value), -1) for value in values]
        dataset = dataset.remove_columns(label_column).add_column(
            label_column, column, feature=datasets.ClassLabel(names=list(labels))
        )
    if unknown:
        raise DataError(
            [
                f"split {split!r}: {label_column!r} has values outside of the {len(labels)} labels "
                f"({_short(unknown)}); unlabelled splits cannot be used, choose another with "
                "--train-split or --eval-split"
            ]
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
