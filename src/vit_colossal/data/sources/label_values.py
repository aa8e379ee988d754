"""From the cells of a label column to text and whole numbers: one rule for every source.

A file says the same labels in many ways: pandas writes 1.0 beside missing numbers and True for a
truth, JSON wraps them in lists, CSV makes text of everything. Here they become text, whole numbers
or nothing; what cannot be a class is refused.
"""

from __future__ import annotations

import ast
import datetime
import json
import math
import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np

from vit_colossal.data.sources.problems import listed
from vit_colossal.errors import DataError
from vit_colossal.text import cell

#: Text or a whole number; None is a missing label.
Label = str | int | None
#: Where a row stands, for messages: ``photos.csv line 4``.
Where = Callable[[int], str]

# Characters without a width, and the mark of a file's beginning.
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
_WHOLE = re.compile(r"[+-]?(0|[1-9]\d{0,17})(\.0*)?")
_DECIMAL = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?")
_NUMBERS = re.compile(r"\[[\s\d.,+-]*\]")


def plain(value: Any) -> Any:
    """One cell without the wrapping of the library that wrote it.

    Args:
        value: Whatever a reader of files or rows gave.

    Returns:
        Text without blanks around it and in Unicode's composed form (NFC), a truth value, a whole
        number, a tuple of these, or None for a missing label (nothing, an empty text or list, NaN
        or the text ``nan``); anything else as it was. Plain values can be hashed and compared,
        and survive JSON as lists do.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        text = unicodedata.normalize("NFC", value.strip().strip(_INVISIBLE).strip())
        return None if not text or text.lower() == "nan" else text
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value) or None
    if isinstance(value, float | Decimal) and math.isfinite(value):
        return int(value) if value == int(value) else float(value)
    return None if value != value else value  # what is not equal to itself is NaN or NaT


def canonical(values: list[Any], column: str, where: Where) -> list[Label]:
    """The labels of a column that has no class names of its own.

    Args:
        values: N cells.
        column: The column's name, for messages.
        where: Where a row stands, for messages.

    Returns:
        N labels: whole numbers if all of them are, else text; one-hot lists as the place of the 1.

    Raises:
        DataError: They are no classes (decimals, dates, several labels an image), or single cells
            are unlike the rest; these are listed.
    """
    cells = [plain(value) for value in values]
    given = {_kind(value) for value in cells} - {"nothing"}
    if given == {"text"}:
        cells = _lists_in_text(cells)
        given = {_kind(value) for value in cells} - {"nothing"}
    if given == {"list"}:
        cells = _out_of_lists(cells, column, where)
        given = {_kind(value) for value in cells} - {"nothing"}
    if given == {"truth"}:
        return [None if value is None else str(value) for value in cells]
    _refuse_numbers_and_dates(cells, given, column)
    odd = [i for i, value in enumerate(cells) if _kind(value) not in ("text", "number", "nothing")]
    if odd and len(odd) == sum(value is not None for value in cells):
        what = f"neither text nor whole numbers ({_examples(cells)})"
        raise DataError([_no_classes(column, what, "choose another column")])
    if odd:
        reason = "is neither text nor a whole number"
        problems = [f"{where(i)}: label {cell(_shown(cells[i]))} {reason}" for i in odd]
        raise DataError(listed(problems))
    if all(value is None or _WHOLE.fullmatch(str(value)) for value in cells):
        return [None if value is None else _whole(value) for value in cells]
    return [None if value is None else str(value) for value in cells]


def label_problems(cells: list[Any], column: str, where: Where) -> list[str]:
    """What is wrong with the labels of a file, row by row.

    Args:
        cells: As the file holds them.
        column: The column's name.
        where: Where a row stands.

    Returns:
        One line each. A file without any label is not judged here: nothing may be asked of it.
    """
    problems: list[str] = []
    try:
        found: list[Any] = list(canonical(cells, column, where))
    except DataError as error:
        problems = error.problems
        found = [plain(value) for value in cells]
    if all(label is None for label in found):
        return problems
    missing = [row for row, label in enumerate(found) if label is None]
    return [f"{where(row)}: no label in column {column!r}" for row in missing] + problems


def as_text(value: Any) -> str | None:
    """One cell as CSV would hold it, so that the cells of a JSON column have one type."""
    if isinstance(value, str):
        return value
    value = plain(value)
    if value is None:
        return None
    return json.dumps(value) if isinstance(value, tuple) else str(value)


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    for kind, types in _KINDS.items():
        if isinstance(value, types):
            return kind
    return "other"


_KINDS: dict[str, Any] = {
    "text": str,
    "truth": bool,  # before the whole numbers, which it is one of
    "number": int,
    "decimal": float,
    "list": tuple,
    "date": (datetime.date, datetime.time, datetime.timedelta),
}


def _whole(value: str | int) -> int:
    return value if isinstance(value, int) else int(value.partition(".")[0])


def _shown(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _examples(cells: list[Any]) -> str:
    found = list(dict.fromkeys(cell(_shown(value)) for value in cells if value is not None))
    return ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")


def _refuse_numbers_and_dates(cells: list[Any], given: set[str], column: str) -> None:
    """Decimals and dates, typed or as text: what a column measures is no class."""
    texts = [str(value) for value in cells if value is not None]
    if given and given <= {"text", "number", "decimal"}:
        numbers = all(_DECIMAL.fullmatch(text) for text in texts)
        parts = [text for text in texts if not _WHOLE.fullmatch(text)] if numbers else []
        # Codes such as 010 are names.
        if any(re.search(r"[.,eE]", text) for text in parts):
            comma = "; a decimal comma is not read" if any("," in text for text in parts) else ""
            what = f"decimals ({_examples(parts)}{comma})"
            raise DataError([_no_classes(column, what, "write classes as whole numbers or names")])
    dates = given == {"date"} or (texts and all(_DATE.fullmatch(text) for text in texts))
    if dates:
        what = f"dates or times ({_examples(texts)})"
        raise DataError([_no_classes(column, what, "choose another column")])


def _no_classes(column: str, what: str, fix: str) -> str:
    return f"--label-column {column}: holds {what}, not class labels: {fix}"


def _lists_in_text(cells: list[Any]) -> list[Any]:
    """Lists that a table holds as text: JSON's ``[0, 1]``, Python's ``['cat']`` and ``[0. 1.]``."""
    found = [None if text is None else _parsed(text) for text in cells]
    return cells if any(isinstance(value, str) for value in found) else found


def _parsed(text: str) -> Any:
    if (text[0], text[-1]) not in (("[", "]"), ("{", "}")):
        return text
    for parse in (_numbers, json.loads, ast.literal_eval):
        try:
            return plain(parse(text))
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def _numbers(text: str) -> list[float]:
    if not _NUMBERS.fullmatch(text):
        raise ValueError("not numbers alone")
    return [float(number) for number in text[1:-1].replace(",", " ").split()]


def _out_of_lists(cells: list[Any], column: str, where: Where) -> list[Any]:
    """Lists of one label as that label, one-hot lists as the place of the 1."""
    lengths = {len(value) for value in cells if value is not None}
    if lengths == {1}:
        return [None if value is None else value[0] for value in cells]
    marks = all(item in (0, 1) for value in cells if value is not None for item in value)
    if len(lengths) > 1 or not marks:
        what = f"several labels an image ({_examples(cells)})"
        raise DataError([_no_classes(column, what, "write one label an image")])
    odd = [i for i, value in enumerate(cells) if value is not None and sum(value) != 1]
    if odd:
        problems = [
            f"{where(i)}: {cell(list(cells[i]))} marks {sum(cells[i])} of several labels an image, "
            f"and column {column!r} may mark one: write one label an image"
            for i in odd
        ]
        raise DataError(listed(problems))
    return [None if value is None else value.index(1) for value in cells]


def is_one_hot(value: Any) -> bool:
    """Whether a cell is a list of several marks, which :func:`canonical` reads by its place."""
    found = plain(value)
    found = _parsed(found) if isinstance(found, str) else found
    return isinstance(found, tuple) and len(found) > 1
