"""Images that tables list more than once: with two labels they are refused, else they are said."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from vit_colossal.data.sources.label_values import plain
from vit_colossal.text import cell


def repeated(
    paths: Sequence[Path | None], labels: Sequence[Any], where: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Find the images that are in several rows of one split.

    Args:
        paths: The image of each row; None holds it itself.
        labels: The label of each row.
        where: Where each row stands, for messages.

    Returns:
        Problems, one line for each row that gives an image another label than an earlier one, and
        notes.
    """
    first: dict[Path, int] = {}
    problems: list[str] = []
    again = 0
    for row, path in enumerate(paths):
        before = row if path is None else first.setdefault(path, row)
        ours, theirs = plain(labels[row]), plain(labels[before])
        again += before != row and ours == theirs
        if ours != theirs and ours is not None and theirs is not None:
            problems.append(
                f"{where[row]}: {path.name if path else ''} has the label {cell(str(ours))}, and "
                f"{cell(str(theirs))} in {where[before]}: write one label an image"
            )
    notes = [f"{again:,} row(s) list an image that an earlier row lists"] if again else []
    return problems, notes


def in_several_splits(images: Mapping[str, Collection[Path]]) -> tuple[str, ...]:
    """A line for each two splits that list the same images."""
    notes = []
    for (first, ours), (second, theirs) in combinations(images.items(), 2):
        same = sorted(set(ours) & set(theirs))
        if same:
            names = ", ".join(image.name for image in same[:3])
            notes.append(
                f"{len(same):,} image(s) of split {second} are in split {first} too ({names} ...): "
                "what is evaluated on them says little"
            )
    return tuple(notes)
