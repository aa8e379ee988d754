"""What is known of a data set once its splits and columns are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class RowNumbers(NamedTuple):
    """Which rows of the data set's own splits some rows are.

    Attributes:
        split: The split they belong to; of a part that is held out, the one it is taken from.
        numbers: Their numbers in that split, from 0.
    """

    split: str
    numbers: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class ChosenData:
    """Two splits of labelled images, checked.

    Attributes:
        name: What was asked for, aliases resolved.
        image_column: Name of the image column.
        label_column: Name of the label column; its values index ``labels``.
        labels: Label names.
        eval_split: Name of the evaluation split, for reports.
        eval_rows: Which rows the evaluation rows are.
        held_out: The share of the training split that the evaluation rows are; 0 where they are a
            split of their own.
        fingerprint: Hex SHA-256 of what both splits contain: equal for equal data on any machine.
        root: The data's own folder, of what lies on this machine.
        notes: What a person should know, one line each.
        overview: What was read as what, one line for each split.
    """

    name: str
    image_column: str
    label_column: str
    labels: tuple[str, ...]
    eval_split: str
    eval_rows: RowNumbers
    held_out: float
    fingerprint: str
    root: Path | None = None
    notes: tuple[str, ...] = ()
    overview: tuple[str, ...] = ()
