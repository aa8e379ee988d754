"""A data set as it was found: all of its splits, nothing chosen or checked yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Loaded:
    """A data set with all of its splits.

    Attributes:
        name: What was asked for, aliases resolved.
        splits: By name; ``IterableDataset`` if they are streamed, else ``Dataset``.
        content: Identifies the content.
        notes: What a person should know, one line each.
        places: What each split was read from, for people.
        fixed: The split that it is always evaluated on, unless another one is named.
        remote: Whether it is on the hub, so that a stream fetches its images from there.
        root: Its own folder, of what lies on this machine.
    """

    name: str
    splits: dict[str, Any]
    content: str
    notes: tuple[str, ...] = ()
    places: dict[str, str] = field(default_factory=dict)
    fixed: str | None = None
    remote: bool = False
    root: Path | None = None

    @property
    def streamed(self) -> bool:
        """Whether rows can only be read in their order."""
        return any(not hasattr(rows, "select") for rows in self.splits.values())
