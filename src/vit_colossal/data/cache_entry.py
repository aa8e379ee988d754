"""An entry of the image cache on disk: what it holds, and whether that is what was written.

``images.npy`` holds the pixels, ``checksums.npy`` a CRC-32 of each, ``labels.npy`` the labels,
``meta.json`` the rest with a SHA-256 of all but the pixels, which are compared as they are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from vit_colossal.data.decoding import BadImage
from vit_colossal.data.pixels import HEADER_BYTES, META, CachedImages, CachedSplit
from vit_colossal.text import json_object

#: Decodes one image again: given the bad ones, and its place among the others.
Decode = Callable[[Sequence[BadImage], int], np.ndarray]


def open_entry(entry: Path, decode: Decode | None) -> tuple[CachedSplit | None, str]:
    """The finished cache entry; or None, and why where it is damaged and not merely absent."""
    try:
        return read_entry(entry, decode)[0], ""
    except (FileNotFoundError, NotADirectoryError):
        return None, ""
    except Exception as error:  # NumPy reads a damaged header as Python: whatever that raises
        return None, str(error)


def read_entry(entry: Path, decode: Decode | None = None) -> tuple[CachedSplit, Mapping[str, Any]]:
    """A finished entry, and its index.

    Raises:
        FileNotFoundError: there is none.
        Exception: it is damaged; of whatever kind.
    """
    meta = json_object((entry / META).read_bytes())
    labels = np.load(entry / "labels.npy")
    checksums = np.load(entry / "checksums.npy")
    if meta.get("sha256") != _seal(meta, labels, checksums):
        raise ValueError("its labels or its index were changed after it was written")
    bad = tuple(BadImage(*image) for image in meta["bad"])
    again = None if decode is None else partial(decode, bad)
    images = CachedImages(entry / "images.npy", tuple(meta["shape"]), checksums, again)
    return CachedSplit(images, labels, bad), meta


def _seal(meta: Mapping[str, Any], labels: np.ndarray, checksums: np.ndarray) -> str:
    """SHA-256 of all that an entry holds beside its images, which have checksums of their own."""
    rest = {key: value for key, value in meta.items() if key != "sha256"}
    sealed = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    sealed.update(labels.tobytes())
    sealed.update(checksums.tobytes())
    return sealed.hexdigest()


def write_index(
    folder: Path, labels: Sequence[int] | np.ndarray, sums: list[int], meta: dict[str, Any]
) -> None:
    """Write all but the images.

    Args:
        folder: of the entry.
        labels: of the images.
        sums: their checksums.
        meta: the index: ``shape`` of the array, the ``bad`` images, and what else is to be kept.
    """
    numbers, checksums = np.array(labels, dtype=np.int64), np.array(sums, dtype=np.uint32)
    np.save(folder / "labels.npy", numbers)
    np.save(folder / "checksums.npy", checksums)
    meta = json_object(json.dumps(meta).encode())  # as it will be read
    meta["sha256"] = _seal(meta, numbers, checksums)
    (folder / META).write_text(json.dumps(meta) + "\n", encoding="utf-8")


def write_header(stream: IO[bytes], shape: tuple[int, ...]) -> None:
    """Write, or write again: NumPy leaves room for the first dimension to grow."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    stream.seek(0)
    np.lib.format.write_array_header_1_0(stream, header)
    if stream.tell() != HEADER_BYTES:
        raise ValueError(f"NumPy's header has {stream.tell()} bytes")
