"""CSV, TSV and JSON-lines files as rows with the numbers of their lines.

CSV comes as programs write it: Excel with ``sep=;`` and rows of nothing but separators, pandas with
its index, anybody without a line of names. What a line means is decided here, what a cell means is
not: an empty text stays one, and ``NA`` is text.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from vit_colossal.data.sources.images import is_image_text
from vit_colossal.errors import DataError
from vit_colossal.text import is_utf8

_SEPARATORS = ",;\t|"
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)
_UNNAMED = re.compile(r"(Unnamed: \d+)?")
# Cells may hold whole images as text; beyond this a quote was left open.
_MAX_CELL = 1 << 27
_SAMPLED_ROWS = 20

_Line = tuple[int, dict[str, Any]]  # its number in the file, the values by column


class Table(NamedTuple):
    """A file of rows.

    Attributes:
        lines: Each row's line number and its values by column.
        twice: Columns whose name stands there more than once.
        notes: What a person should know, one line each.
    """

    lines: list[_Line]
    twice: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """All columns."""
        return list(dict.fromkeys(name for _, values in self.lines for name in values))


def read_table(file: Path) -> Table:
    """Read a file.

    Args:
        file: CSV (separated by commas, semicolons, tabs or bars), TSV, JSON lines or a small
            Parquet file; text in UTF-8, or in UTF-16 with its mark.

    Raises:
        DataError: It is damaged, of another kind, or holds no rows.
        OSError: It cannot be opened.
    """
    suffix = file.suffix.lower()
    try:
        if suffix == ".parquet":
            table = _read_parquet(file)
        elif suffix in (".csv", ".tsv"):
            table = _read_csv(file.name, _text(file.read_bytes()), suffix)
        else:
            table = Table(list(_read_json(_text(file.read_bytes()))))
    except (ValueError, csv.Error, RecursionError) as error:  # bad UTF-8 and bad JSON are the first
        raise DataError([f"{file}: cannot be read ({error})"]) from error
    if not table.lines:
        raise DataError([f"{file}: holds no rows"])
    return table


def _text(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    if content.startswith(b"PK\3\4"):
        raise ValueError("this is a spreadsheet or an archive; save it as CSV in UTF-8")
    if b"\0" in content:
        raise ValueError("it holds null bytes, as UTF-16 without its mark does; save it in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        wrong = f"byte 0x{content[error.start]:02x} in line {line} is not utf-8"
        raise ValueError(f"{wrong}; save it as CSV in UTF-8") from None


def _read_csv(name: str, text: str, suffix: str) -> Table:
    marked = _SEPARATOR_LINE.match(text)
    if marked:
        text = text[marked.end() :]
    order = "\t,;|" if suffix == ".tsv" else _SEPARATORS
    separator = marked[1] if marked else _separator(text, order)
    rows = list(_cells(text, separator, 1 if marked else 0))
    if not rows:
        return Table([])
    notes: tuple[str, ...] = ()
    head, body = rows[0][1], rows[1:]
    if any(is_image_text(value) for value in head):
        body = rows
        head = [str(place) for place in range(1, len(head) + 1)]
        notes = (f"{name}: has no line of column names; its columns are {', '.join(head[:5])}",)
    width = len(head)
    for number, values in body:
        if any(value.strip() for value in values[width:]):
            raise ValueError(f"line {number} has more values than the first line")
    names, twice = _column_names(head, [values for _, values in body])
    used = [(place, name) for place, name in enumerate(names) if name is not None]
    lines = [
        (number, {name: row[place] if place < len(row) else None for place, name in used})
        for number, row in body
    ]
    return Table(lines, frozenset(twice), notes)


def _cells(text: str, separator: str, before: int) -> Iterator[tuple[int, list[str]]]:
    """Rows that hold anything, with their line numbers."""
    with _long_cells():
        stream = io.StringIO(text, newline="")
        reader = csv.reader(stream, delimiter=separator, strict=True)
        for values in reader:
            if any(value.strip() for value in values):
                yield reader.line_num + before, values


@contextmanager
def _long_cells() -> Iterator[None]:
    """The module's limit of 128 KiB is for all its readers: leave it as it was."""
    limit = csv.field_size_limit(_MAX_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _separator(text: str, order: str) -> str:
    """What divides the first lines into the same number of columns, and the most of them."""
    found: dict[str, int] = {}
    for separator in order:
        try:
            rows = [values for _, values in islice(_cells(text, separator, 0), _SAMPLED_ROWS)]
        except csv.Error:
            continue
        widths = {len(_without_empty_end(row)) for row in rows}
        # A row that is wrong shall be named by its line: half as good as none.
        found[separator] = (len(rows[0]) if rows else 0) * (2 if len(widths) == 1 else 1)
    return max(found, key=lambda separator: found[separator]) if found else order[0]


def _without_empty_end(row: list[str]) -> list[str]:
    end = len(row)
    while end and not row[end - 1].strip():
        end -= 1
    return row[:end]


def _column_names(head: list[str], rows: list[list[str]]) -> tuple[list[str | None], set[str]]:
    """A name for each column that is used, and the names that are there twice.

    Columns without a name are called by their place; they are left out where they are empty or
    count the rows, as the index does that pandas writes.
    """
    names: list[str | None] = []
    twice = set()
    for place, given in enumerate(head):
        name = given.strip()
        if _UNNAMED.fullmatch(name):
            values = [row[place].strip() for row in rows if place < len(row)]
            if not any(values) or _counts(values):
                names.append(None)
                continue
            name = name or str(place + 1)
        if name in names:
            twice.add(name)
            name = next(n for i in range(1, len(head) + 1) if (n := f"{name}.{i}") not in names)
        names.append(name)
    return names, twice


def _counts(values: list[str]) -> bool:
    """Whether values are whole numbers of which none is there twice."""
    return all(value.isdecimal() for value in values) and len(set(values)) == len(values)


def _read_json(text: str) -> Iterator[_Line]:
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"line {number}: expected an object with columns, like {{...}}")
        if any(isinstance(value, str) and not is_utf8(value) for value in values.values()):
            raise ValueError(f"line {number}: half of a pair of surrogates is no character")
        yield number, values


def _read_parquet(file: Path) -> Table:
    """A table of paths as `datasets` writes one beside images; row 1 is the first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return Table(list(enumerate(pq.read_table(file).to_pylist(), start=1)))
    except pa.ArrowException as error:
        raise ValueError(str(error).splitlines()[0]) from error
