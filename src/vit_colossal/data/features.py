"""What a frozen part of a model has made of each image of a split, kept on disk.

An entry of the image cache whose images are the bytes of these numbers: with the same checksums,
mapped by all processes of a machine in the same way, and read by the same batches.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from vit_colossal.data.cache_entry import read_entry, write_header, write_index
from vit_colossal.data.pixels import Pixels, checksum
from vit_colossal.data.samples import IGNORED_LABEL
from vit_colossal.durable import remove

logger = logging.getLogger("vit_colossal")

#: Below the folder of all caches.
FOLDER = "features"
_ROWS_AT_ONCE = 256
_OWNER = "owner.lock"


@dataclass(frozen=True)
class FeatureForm:
    """What the bytes of a row are.

    Attributes:
        dtype: of its numbers, as the model computed them.
        shape: of one image's: [features], or [tokens, hidden].
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one image."""
        return math.prod(self.shape) * self.dtype.itemsize

    def bytes_of(self, features: Tensor) -> Tensor:
        """uint8 [b, row_bytes] of features [b, ...]."""
        return features.reshape(len(features), -1).contiguous().view(torch.uint8)

    def features_of(self, rows: Tensor) -> Tensor:
        """Features [b, ...] of uint8 [b, row_bytes]."""
        return rows.view(self.dtype).view(len(rows), *self.shape)


def open_features(entry: Path, *, compare: bool) -> tuple[Pixels, FeatureForm] | None:
    """Rows of bytes, uint8 [N, row_bytes], and what these are; None where they are not kept.

    Args:
        entry: its place.
        compare: read all rows and compare them with their checksums.
    """
    try:
        split, meta = read_entry(entry)
        form = FeatureForm(getattr(torch, meta["dtype"]), tuple(meta["row"]))
        if compare:
            for first in range(0, len(split), _ROWS_AT_ONCE):
                split.images[first : first + _ROWS_AT_ONCE]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # NumPy raises anything for a damaged header
        if compare:
            reason = str(error).partition(": start again")[0]
            logger.warning(
                "the kept features in %s are damaged (%s): computing anew", entry, reason
            )
        return None
    return split.images, form


class FeatureWriter:
    """Writes an entry row by row. What fails ends in `problem` and leaves nothing behind: the peers
    that compute the rows together go on.

    Attributes:
        problem: why nothing was kept; empty where all is well.
    """

    def __init__(self, entry: Path, count: int) -> None:
        self.entry, self.count = entry, count
        self.problem = ""
        self._sums: list[int] = []
        self._form: FeatureForm | None = None
        self._folder: Path | None = None
        self._stream: IO[bytes] | None = None

    @contextmanager
    def writing(self) -> Iterator[FeatureWriter]:
        """Hold the unfinished entry, which other processes then leave alone."""
        with contextlib.ExitStack() as stack:
            with self._told():
                self.entry.parent.mkdir(parents=True, exist_ok=True)
                _remove_left_over(self.entry)
                name = tempfile.mkdtemp(".partial", f"{self.entry.name}.", self.entry.parent)
                self._folder = Path(name)
                stack.callback(shutil.rmtree, name, ignore_errors=True)
                stack.enter_context(FileLock(self._folder / _OWNER, timeout=0))
                self._stream = stack.enter_context((self._folder / "images.npy").open("wb"))
            yield self

    def add(self, rows: Tensor, form: FeatureForm) -> None:
        """Take the next images, uint8 [b, row_bytes] on the host; those beyond the split are none.

        Args:
            rows: their bytes.
            form: what these are, the same each time.
        """
        with self._told():
            if self.problem or self._stream is None:
                return
            if self._form is None:
                self._begin(form)
            rows = rows[: self.count - len(self._sums)]
            for row in rows.numpy():
                self._stream.write(row.data)
                self._sums.append(checksum(row))

    def finish(self) -> None:
        """Put the entry in its place, unless another process has put an equal one there."""
        with self._told():
            form, folder, stream = self._form, self._folder, self._stream
            if self.problem or form is None or folder is None or stream is None:
                return
            if len(self._sums) != self.count:
                raise RuntimeError(f"{len(self._sums)} rows of {self.count} images")
            stream.flush()
            os.fsync(stream.fileno())
            shape = [self.count, form.row_bytes]
            meta = {"dtype": str(form.dtype).removeprefix("torch."), "row": list(form.shape)}
            # Without labels: the same pixels may have others in another data set.
            unlabeled = np.full(self.count, IGNORED_LABEL)
            write_index(folder, unlabeled, self._sums, {"shape": shape, "bad": [], **meta})
            (folder / _OWNER).unlink()
            if open_features(self.entry, compare=False) is None:
                remove(self.entry)
                folder.rename(self.entry)

    def _begin(self, form: FeatureForm) -> None:
        needed = self.count * form.row_bytes
        free = shutil.disk_usage(self.entry.parent).free
        if needed > free:
            raise OSError(f"{needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free")
        assert self._stream is not None
        write_header(self._stream, (self.count, form.row_bytes))
        self._form = form

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Note a failure of the disk rather than raise it."""
        try:
            yield
        except (OSError, Timeout) as error:
            self.problem = self.problem or f"{self.entry.parent}: {error}"


def _remove_left_over(entry: Path) -> None:
    """What processes that were killed while they wrote have left; those that live hold a lock."""
    for folder in entry.parent.glob(f"{entry.name}.*.partial"):
        if folder.is_symlink():  # a lock would be made where it leads
            continue
        with contextlib.suppress(OSError, Timeout), FileLock(folder / _OWNER, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
