"""What a reader of files gives: rows by split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Rows(NamedTuple):
    """What the files of a data set hold.

    Attributes:
        splits: Rows by split.
        images: Image files that they name.
        notes: What a person should know, one line each.
    """

    splits: dict[str, Any]
    images: Sequence[Path] = ()
    notes: tuple[str, ...] = ()
