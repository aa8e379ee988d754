"""Where images come from: a key for each, and the pictures as they were before the model's crop."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vit_colossal.data.decoding import whole_picture
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.sources.images import undecoded
from vit_colossal.data.sources.source import ImageSource
from vit_colossal.data.sources.webdataset import shard_and_member
from vit_colossal.data.streams import StreamedSource
from vit_colossal.hub import lies_in

if TYPE_CHECKING:
    import datasets

#: In the hub's cache, what comes before the name that a file has in its repository or archive.
_OF_THE_CACHE = re.compile(r".*/(?:snapshots|extracted)/[^/]+/", re.DOTALL)
#: Other ranks wait meanwhile, and a disk far away may be slow.
_WITHIN_S = 30


@dataclass(frozen=True, eq=False)
class Originals:
    """The images of a split, without those that were left out.

    Attributes:
        split: the data set's split that they are rows of.
        numbers: int64 [N], their row numbers in it.
        rows: undecoded; None of a stream, of which nothing is kept but the model's pixels.
        column: the image column.
        places: int64 [N], their places in ``rows``.
        root: the data's own folder, of what lies on this machine.
    """

    split: str
    numbers: np.ndarray
    rows: datasets.Dataset | None
    column: str
    places: np.ndarray
    root: Path | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def keys(self) -> list[str]:
        """What each image is called.

        The path of its file below the data's folder; of one in a shard, ``SHARD::MEMBER``; of one
        that a row holds, the name that the row gives it. Where that is missing, or several rows
        have the same: ``SPLIT[ROW]``.
        """
        names: Sequence[str | None] = [None] * len(self)
        again: Counter[str | None] = Counter()
        if self.rows is not None:
            paths, held = _paths(self.rows, self.column)
            again = Counter(path for path, bytes_too in zip(paths, held, strict=True) if bytes_too)
            chosen = _chosen(self.rows)[self.places]
            names = [paths[row] if held[row] else self._file(paths[row]) for row in chosen]
        return [
            f"{self.split}[{number}]" if not name or again[name] > 1 else _writable(name)
            for name, number in zip(names, self.numbers, strict=True)
        ]

    def pictures(self, chosen: Sequence[int], longest: int) -> Iterator[Image.Image | None]:
        """Some images as they were, upright, the longer side at most ``longest`` pixels.

        None for one that cannot be had any more, or in time, or was never kept. Nothing outside of
        the data's folder is opened.
        """
        end = time.monotonic() + _WITHIN_S
        if self.rows is None:
            yield from (None for _ in chosen)
            return
        rows = undecoded(self.rows, self.column, self.rows.features[self.column])
        for number in chosen:
            if time.monotonic() > end:
                yield None
                continue
            try:
                value = rows[int(self.places[number])][self.column]
                yield whole_picture(value, longest) if self._is_inside(value) else None
            except Exception:  # as in decoding: whatever Pillow's readers raise
                yield None

    def _file(self, path: str | None) -> str | None:
        """The name of a file, without what is this machine's alone."""
        if path is None:
            return None
        file, member = shard_and_member(path) or (path, "")
        if self.root is not None and Path(file).is_relative_to(self.root):
            file = Path(file).relative_to(self.root).as_posix()
        else:
            file = _OF_THE_CACHE.sub("", file)
        return f"{file}::{member}" if member else file

    def _is_inside(self, value: Any) -> bool:
        """Whether a cell holds its image itself, or names a file that still lies in the data."""
        path = value.get("path") if isinstance(value, dict) else None
        if path is None or value.get("bytes") is not None or self.root is None:
            return True
        file, _ = shard_and_member(path) or (path, "")
        return lies_in(Path(file), self.root)


def originals_of(source: ImageSource | StreamedSource, split: CachedSplit) -> Originals:
    """Where the images of a decoded evaluation split come from."""
    name, numbers = source.eval_rows
    count = len(split) + len(split.bad)
    places = np.setdiff1d(np.arange(count), [image.number for image in split.bad])
    rows = source.evaluation if isinstance(source, ImageSource) else None
    every = np.array(numbers[:count], np.int64)
    return Originals(name, every[places], rows, source.image_column, places, source.root)


def _paths(rows: datasets.Dataset, column: str) -> tuple[list[str | None], list[bool]]:
    """Of all rows of the table below: what they call their image, and whether they hold it.

    No image is read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    table = rows.data.column(column)
    if not pa.types.is_struct(table.type) or table.type.get_field_index("path") < 0:
        return [None] * len(table), [True] * len(table)
    paths: list[str | None] = pc.struct_field(table, "path").to_pylist()
    if table.type.get_field_index("bytes") < 0:
        return paths, [False] * len(table)
    return paths, pc.is_valid(pc.struct_field(table, "bytes")).to_pylist()


def _chosen(rows: datasets.Dataset) -> np.ndarray:
    """The rows of the table below that a data set consists of, int64 [N]."""
    if rows._indices is None:
        return np.arange(len(rows))
    return np.asarray(rows._indices.column(0).to_numpy(), np.int64)


def _writable(name: str) -> str:
    """A file's name may hold bytes that are no text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
