"""CSV, TSV and JSON-lines files with a column of images and a column of labels."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from vit_colossal.data.sources.columns import choose_columns, labelled_images, names_beside
from vit_colossal.data.sources.image_files import ImageFiles
from vit_colossal.data.sources.images import (
    SAMPLED,
    addresses_refused,
    encoded,
    in_text,
    is_encoded,
    text_columns,
)
from vit_colossal.data.sources.label_values import label_problems, plain
from vit_colossal.data.sources.labels import LABEL_COLUMNS, short
from vit_colossal.data.sources.problems import listed
from vit_colossal.data.sources.repeated_images import repeated
from vit_colossal.data.sources.split_by_column import may_divide, parts_of
from vit_colossal.data.sources.table_files import Table, read_table
from vit_colossal.errors import DataError
from vit_colossal.text import cell

if TYPE_CHECKING:
    import datasets

TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
_PIXEL = re.compile(r"(pixel|pix|px|p)?_?\d+(x\d+)?", re.IGNORECASE)
_FEW_PIXELS = 15


class TableRows(NamedTuple):
    """What the tables of one split hold.

    Attributes:
        rows: An ``Image`` column, a label column of text unless there is none, and the columns
            that may name splits.
        images: The files that they name.
        notes: What a person should know, one line each.
        columns: All columns of the files.
    """

    rows: datasets.Dataset
    images: list[Path]
    notes: tuple[str, ...]
    columns: tuple[str, ...]


class TrainingColumns(NamedTuple):
    """The columns of the training split's tables: another split may lack the labels alone.

    Attributes:
        label: The column of the labels.
        others: All columns; None allows the other split any.
    """

    label: str
    others: frozenset[str] | None

    def label_is_missing(self, names: Collection[str]) -> bool:
        """Whether these columns are those of training without the labels."""
        if self.label in names or any(is_called_label(name) for name in names):
            return False
        return self.others is None or self.others.issuperset(names)


def read_tables(
    files: list[Path],
    image_column: str | None,
    label_column: str | None,
    names: Mapping[str, Path] = MappingProxyType({}),
    folders: Mapping[Path, str] = MappingProxyType({}),
    training: TrainingColumns | None = None,
) -> TableRows:
    """Read the files of one split; no image is opened.

    Args:
        files: Files with one of ``TEXT_SUFFIXES``.
        image_column: Column of the images: paths relative to their file's folder that stay in it,
            base64 or data URIs; None finds the only one.
        label_column: Column of the labels; None takes ``label``, ``labels``, ``class`` or ``cls``,
            or the only column beside the images.
        names: Images by what else a table may call them: a name without its folder or suffix.
        folders: The split of images whose folders tell it: one split may have no labels.
        training: The columns of training, for a split that may have no labels.

    Raises:
        DataError: A file cannot be read, lacks a column, or rows have no label or name an image
            that is not there; all such rows are listed.
        OSError: A file cannot be opened.
    """
    images: list[Any] = []
    labels: list[Any] = []
    extra: dict[str, list[Any]] = {}
    columns: dict[str, None] = {}
    where: list[str] = []
    problems: list[str] = []
    notes: list[str] = []
    for file in files:
        table = read_table(file)
        # The first file's columns are those of all.
        asked = image_column, label_column
        image_column, label_column = _find_columns(file, table, asked, names, training)
        finder = ImageFiles([file.parent], file.parent.resolve(), names)
        for number, values in table.lines:
            where.append(f"{file.name} line {number}")
            labels.append(values.get(label_column) if label_column else None)
            images.append(_image(finder, values.get(image_column), where[-1], problems))
        _extend(extra, _split_columns(table, (image_column, label_column)), len(labels))
        columns |= dict.fromkeys(table.names)
        notes += table.notes
        if label_column and all(str(plain(v)).isdecimal() for v in labels):
            notes += names_beside(table.names, label_column)
    paths = [Path(image["path"]) if image["path"] else None for image in images]
    by_folder = [folders.get(path) if path else None for path in paths]
    parts = by_folder if any(by_folder) else parts_of(extra) or by_folder
    problems += _label_problems(labels, parts, label_column or "", where)
    wrong, said = repeated(paths, labels, where)
    if problems or wrong:
        raise DataError(listed([*problems, *wrong]))
    rows = labelled_images(
        image_column or "", images, label_column or "", labels if label_column else None
    )
    rows = _with_columns(rows, extra)
    used = [path for path in paths if path]
    return TableRows(rows, used, tuple(dict.fromkeys([*notes, *said])), tuple(columns))


def columns_of(file: Path) -> dict[str, list[Any]]:
    """The cells of a file by column; see ``table_files.read_table`` for what is raised."""
    table = read_table(file)
    return {name: [values.get(name) for _, values in table.lines] for name in table.names}


def _extend(columns: dict[str, list[Any]], more: dict[str, list[Any]], rows: int) -> None:
    """Append the cells of one more file; files that lack a column have None in it."""
    for name, cells in more.items():
        before = rows - len(cells)
        columns.setdefault(name, [None] * before).extend(cells)
    for cells in columns.values():
        cells += [None] * (rows - len(cells))


def _with_columns(rows: datasets.Dataset, columns: dict[str, list[Any]]) -> datasets.Dataset:
    for name, cells in columns.items():
        rows = rows.add_column(name, [None if v is None else str(v) for v in cells])
    return rows


def _label_problems(
    labels: list[Any], parts: Sequence[str | None], column: str, where: list[str]
) -> list[str]:
    """What is wrong with the labels of each split in a table: one may have none."""
    rows: dict[str | None, list[int]] = {}
    for row, split in enumerate(parts):
        rows.setdefault(split, []).append(row)
    problems: list[str] = []
    for own in rows.values():
        lines = [where[row] for row in own]
        problems += label_problems([labels[row] for row in own], column, lines.__getitem__)
    return problems


def _image(files: ImageFiles, value: Any, where: str, problems: list[str]) -> dict[str, Any]:
    """What a cell holds or names; where it does not, ``problems`` gets a line."""
    value = in_text(value)
    try:
        if isinstance(value, str) and is_encoded(value):
            found: dict[str, Any] = encoded(value)
            return found
        return {"bytes": None, "path": str(files.find(value))}
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return {"bytes": None, "path": None}


def _find_columns(
    file: Path,
    table: Table,
    asked: tuple[str | None, str | None],
    known: Mapping[str, Path],
    training: TrainingColumns | None,
) -> tuple[str, str | None]:
    names = table.names
    image_column, label_column = asked
    labels = [name for name in names if is_called_label(name)]
    sampled = {
        name: [values.get(name) for _, values in table.lines[:SAMPLED]]
        for name in names
        if name not in labels
    }
    images = text_columns(sampled, known)
    # What `datasets` calls it, whatever else looks like a path.
    images = ["file_name"] if "file_name" in images else images
    if not labels and len(names) == 2:
        labels = [name for name in names if name not in images]
    kinds = ("column of image paths", "column of labels")
    pixels = [name for name in names if _PIXEL.fullmatch(name)]
    try:
        if len(pixels) > _FEW_PIXELS and not images and image_column is None:
            fix = "write each row as an image file and name the files, or use Parquet with bytes"
            raise DataError([f"holds {len(pixels)} columns of pixels, and no images; {fix}"])
        if training and training.label_is_missing(names):
            return choose_columns(names, (image_column, names[0]), (images, []), kinds)[0], None
        marks = _one_hot_columns(table, images) if not labels and label_column is None else []
        if marks:
            what = f"columns {short(marks)} mark one class each; write one column of labels"
            raise DataError([f"no column of labels found: {what}"])
        found = choose_columns(names, asked, (images, labels), kinds)
        refused = addresses_refused(found[0], sampled.get(found[0], []))
        twice = [name for name in found if name in table.twice]
        problems = [f"the column {cell(name)!r} is there twice: rename one" for name in twice]
        if refused or problems:
            raise DataError([refused] if refused else problems)
    except DataError as error:
        hint = "; if it names images without suffix, call it metadata.csv, beside them"
        unknown = f"no {kinds[0]} found"
        raise DataError(
            [
                f"{file}: {problem}{hint if problem.startswith(unknown) and not known else ''}"
                for problem in error.problems
            ]
        ) from None
    return found


def _one_hot_columns(table: Table, images: list[str]) -> list[str]:
    """Columns of 0 and 1 of which each row has one 1, as ``pandas.get_dummies`` writes them."""
    rows = [{name: plain(value) for name, value in row.items()} for _, row in table.lines[:SAMPLED]]
    marks = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "False": 0, "True": 1}
    names = [
        n for n in table.names if n not in images and all(str(r.get(n)) in marks for r in rows)
    ]
    whole = all(sum(marks[str(row.get(name))] for name in names) == 1 for row in rows)
    return names if whole and len(names) > 1 else []


def is_called_label(column: str) -> bool:
    """Whether a column is called as columns of labels are."""
    return column.strip().lower() in LABEL_COLUMNS


def _split_columns(table: Table, used: Collection[str | None]) -> dict[str, list[Any]]:
    """The columns that may say to which split each row belongs."""
    columns = {n: [v.get(n) for _, v in table.lines] for n in table.names if n not in used}
    return {name: cells for name, cells in columns.items() if may_divide(name, cells)}
