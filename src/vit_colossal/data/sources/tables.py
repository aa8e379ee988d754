"""CSV, TSV and JSON-lines files with a column of image paths and a column of labels."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_colossal.data.sources.columns import LABEL_COLUMNS, labelled_images, plain_label
from vit_colossal.data.sources.problems import listed
from vit_colossal.errors import DataError

if TYPE_CHECKING:
    import datasets

TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
# How many rows decide which column holds the paths.
_SAMPLED = 100

_Line = tuple[int, dict[str, Any]]  # its number in the file, the values by column


def read_tables(
    files: list[Path],
    image_suffixes: Collection[str],
    image_column: str | None,
    label_column: str | None,
) -> tuple[datasets.Dataset, list[Path]]:
    """Read the files of one split; no image is opened.

    Args:
        files: Files with one of ``TEXT_SUFFIXES``, in UTF-8.
        image_suffixes: What images end with, to recognise the column of paths.
        image_column: Column of the paths, which are relative to their file's folder and stay in
            it; None finds the only one.
        label_column: Column of the labels; None takes ``label``, ``labels``, ``class`` or ``cls``,
            or the only column beside the paths.

    Returns:
        Rows with an ``Image`` column and a label column of strings or whole numbers, and the
        images' files.

    Raises:
        DataError: A file cannot be read, lacks a column, or rows have no label or name an image
            that is not there; all such rows are listed.
        OSError: A file cannot be opened.
    """
    images: list[Path] = []
    labels: list[str | int] = []
    problems: list[str] = []
    for file in files:
        lines = _read(file)
        columns = _find_columns(file, lines, image_suffixes, image_column, label_column)
        # The first file's columns are those of all.
        image_column, label_column = columns
        root = file.parent.resolve()
        for number, values in lines:
            row = f"{file.name} line {number}"
            try:
                labels.append(plain_label(values.get(label_column)))
            except ValueError as error:
                problems.append(f"{row}: {error} in column {label_column!r}")
            try:
                images.append(_find_image(root, values.get(image_column)))
            except ValueError as error:
                problems.append(f"{row}: {error}")
    if problems:
        raise DataError(listed(problems))
    paths = [str(image) for image in images]
    return labelled_images(image_column or "", paths, label_column or "", labels), images


def _read(file: Path) -> list[_Line]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            is_csv = file.suffix.lower() in (".csv", ".tsv")
            rows = _read_csv(stream, file.suffix.lower()) if is_csv else _read_json(stream)
            lines = list(rows)
    except (ValueError, csv.Error, RecursionError) as error:  # bad UTF-8 and bad JSON are the first
        raise DataError([f"{file}: cannot be read ({error})"]) from error
    if not lines:
        raise DataError([f"{file}: holds no rows"])
    return lines


def _read_csv(stream: Any, suffix: str) -> Iterator[_Line]:
    """Rows by the names in the first line; its most frequent separator is the file's."""
    start = stream.readline()
    stream.seek(0)
    delimiter = "\t" if suffix == ".tsv" else max(",;\t", key=start.count)
    reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
    for values in reader:
        if None in values:
            raise ValueError(f"line {reader.line_num} has more values than the first line")
        yield reader.line_num, values


def _read_json(stream: Any) -> Iterator[_Line]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"line {number}: expected an object with columns, like {{...}}")
        yield number, values


def _find_columns(
    file: Path,
    lines: list[_Line],
    image_suffixes: Collection[str],
    image_column: str | None,
    label_column: str | None,
) -> tuple[str, str]:
    names = list(dict.fromkeys(name for _, values in lines for name in values))
    sampled = [values for _, values in lines[:_SAMPLED]]

    def is_path(name: str) -> bool:
        texts = [values.get(name) for values in sampled]
        given = [text for text in texts if isinstance(text, str) and text.strip()]
        # Most of them: a row that is wrong shall be named, not hide the column.
        return 2 * sum(_suffix(text) in image_suffixes for text in given) > len(given)

    images = [name for name in names if is_path(name)]
    labels = [name for name in LABEL_COLUMNS if name in names]
    if not labels and len(names) == 2:
        labels = [name for name in names if name not in images]
    chosen, problems = [], []
    for what, asked, found in (
        ("image", image_column, images),
        ("label", label_column, labels),
    ):
        if asked is not None:
            found = [asked]
        if len(found) == 1 and found[0] in names:
            chosen.append(found[0])
        elif asked is not None:
            problems.append(f"--{what}-column {asked}: no such column, only {', '.join(names)}")
        elif found:
            problems.append(
                f"several {what} columns: choose one of {', '.join(found)} with --{what}-column"
            )
        else:
            kind = "image paths" if what == "image" else "labels"
            problems.append(
                f"no column of {kind} found: name it with --{what}-column (of {', '.join(names)})"
            )
    if problems:
        raise DataError([f"{file}: {problem}" for problem in problems])
    return chosen[0], chosen[1]


def _suffix(text: str) -> str:
    return os.path.splitext(text.strip())[1].lower()


def _find_image(root: Path, value: Any) -> Path:
    """The file that a row names: a data set is what lies in its folder, links resolved."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("no image path")
    name = value.strip()
    image = (root / name).resolve()
    if not image.is_relative_to(root):
        raise ValueError(f"{name} lies outside of {root}; put the table above its images")
    if not os.path.isfile(image):
        raise ValueError(f"{name}: no such file below {root}")
    return image
