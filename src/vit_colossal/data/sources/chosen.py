"""What is known of a data set once its splits and columns are chosen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ChosenData:
    """Two splits of labelled images, checked.

    Attributes:
        name: What was asked for, aliases resolved.
        image_column: Name of the image column.
        label_column: Name of the label column; its values index ``labels``.
        labels: Label names.
        eval_split: Name of the evaluation split, for reports.
        held_out: Whether the evaluation rows are a part of the training split.
        fingerprint: Hex SHA-256 of what both splits contain: equal for equal data on any machine.
        notes: What a person should know, one line each.
        overview: What was read as what, one line for each split.
    """

    name: str
    image_column: str
    label_column: str
    labels: tuple[str, ...]
    eval_split: str
    held_out: bool
    fingerprint: str
    notes: tuple[str, ...] = ()
    overview: tuple[str, ...] = ()
