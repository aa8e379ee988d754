"""Every image decoded, resized and kept once, as one array on disk that all processes map."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from vit_colossal.data.cache_entry import Decode, open_entry, write_header, write_index
from vit_colossal.data.decoding import POLICY_VERSION, BadImage, Row, decode_rows
from vit_colossal.data.pixels import CachedSplit, LazyImages, checksum
from vit_colossal.data.sources.images import undecoded
from vit_colossal.data.sources.problems import listed
from vit_colossal.durable import remove
from vit_colossal.errors import DataError
from vit_colossal.model.preprocessing import Preprocessing

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

_CHUNK = 256


@dataclass(frozen=True)
class CacheOptions:
    """How images are decoded and where they are kept.

    Attributes:
        preprocessing: Which pixels are wanted.
        root: Folder of all caches.
        split: What the split is called in messages.
        skip_bad: Leave out what cannot be decoded, instead of refusing the split.
        progress: Show a bar while decoding, if stderr is a terminal.
        images_to_follow: How many more the disk has to have room for, once the split is written.
    """

    preprocessing: Preprocessing
    root: Path
    split: str = "training"
    skip_bad: bool = False
    progress: bool = False
    images_to_follow: int = 0

    def entry(self, *identity: str) -> Path:
        """The place of the data with this identity, decoded in this way."""
        parts = [*identity, *self.preprocessing.pixel_identity(), POLICY_VERSION]
        return self.root / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


#: Chunks of undecoded rows, from the start each time it is called.
Rows = Callable[[], Iterable[list[Row]]]


def prepare_images(
    dataset: datasets.Dataset,
    image_column: str,
    label_column: str,
    key: str,
    options: CacheOptions,
) -> CachedSplit:
    """Return the decoded split, building it first unless some process already did.

    Args:
        dataset: Rows with an ``Image`` column and an integer label column.
        image_column: Name of the image column.
        label_column: Name of the label column.
        key: Identifies the rows: the source's fingerprint and the split's name.
        options: How to decode, and where to.

    Returns:
        The split, mapped from the cache.

    Raises:
        DataError: See :func:`prepare_rows`.
    """
    entry = options.entry(key, image_column, label_column)
    rows = rows_of(dataset, image_column, label_column)
    decode = partial(_decode_one, LazyImages(dataset, image_column, options.preprocessing))
    return prepare_rows(entry, rows, len(dataset), options, decode=decode)


def _decode_one(images: LazyImages, bad: Sequence[BadImage], number: int) -> np.ndarray:
    """An image by its place among the good ones."""
    left_out = {image.number for image in bad}
    good = (row for row in range(len(images)) if row not in left_out)
    return images[next(itertools.islice(good, number, None))]


def prepare_rows(
    entry: Path,
    rows: Rows,
    count: int | None,
    options: CacheOptions,
    more: dict[str, Any] | None = None,
    decode: Decode | None = None,
) -> CachedSplit:
    """Return what is kept at ``entry``, building it first unless some process already did.

    Safe to call from any number of processes at once: one builds, the others wait for it.

    Args:
        entry: A folder that holds the decoded rows; complete or absent.
        rows: The rows.
        count: How many there are, if that is known.
        options: How to decode.
        more: What else to write into ``meta.json``, filled while the rows are read.
        decode: Decodes one image again, should its bytes be damaged.

    Returns:
        The split, mapped from the cache.

    Raises:
        DataError: Images cannot be decoded and are not to be skipped, or none can; or the cache
            cannot be written.
    """
    split, _ = open_entry(entry, decode)
    if split is None:
        with locked(entry):
            split, damage = open_entry(entry, decode)
            if damage:
                logger.warning("rebuilding the damaged image cache %s (%s)", entry, damage)
            if split is None:
                _build(entry, rows(), count, options, {} if more is None else more)
                split, _ = open_entry(entry, decode)
    if split is None:
        raise DataError([_unwritable(entry, "damaged right after it was written")])
    refuse_bad(split.bad, len(split) + len(split.bad), options)
    return split


def rows_of(dataset: datasets.Dataset, image_column: str, label_column: str) -> Rows:
    """Chunks of a split's rows, undecoded: so that one bad image does not hide the next."""

    def chunks() -> Iterator[list[Row]]:
        raw = undecoded(dataset, image_column, dataset.features[image_column])
        for start in range(0, len(raw), _CHUNK):
            chunk = raw[start : start + _CHUNK]
            numbers = range(start, start + len(chunk[label_column]))
            columns = zip(numbers, chunk[image_column], chunk[label_column], strict=True)
            yield [Row(*values) for values in columns]

    return chunks


def refuse_bad(bad: Iterable[BadImage], total: int, options: CacheOptions) -> None:
    """Raise DataError for images that cannot be decoded, unless they are to be left out."""
    if problems := bad_problems(bad, total, options):
        raise DataError(problems)


def bad_problems(bad: Iterable[BadImage], total: int, options: CacheOptions) -> list[str]:
    """Lines on images that cannot be decoded; none where they are to be left out."""
    problems = [str(image) for image in bad]
    if not problems or (options.skip_bad and len(problems) < total):
        return []
    what = f"{len(problems)} of {total} {options.split} images cannot be decoded"
    alternative = "" if options.skip_bad else ", or leave them out: --skip-bad-images"
    advice = f"repair or remove them{alternative}"
    return [f"{what}; {advice}:", *listed(problems)]


@contextmanager
def locked(entry: Path) -> Iterator[None]:
    """Keep other processes from building the same entry; not being able to write is a DataError."""
    from filelock import FileLock

    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.with_suffix(".lock")):
            yield
    except OSError as error:
        raise DataError([_unwritable(entry, str(error))]) from error


def progress_bar(total: int | None, options: CacheOptions) -> Any:
    """A bar that counts images, where somebody watches."""
    from tqdm import tqdm

    return tqdm(total=total, unit="image", disable=not (options.progress and sys.stderr.isatty()))


def _unwritable(entry: Path, reason: str) -> str:
    return (
        f"cannot write the image cache {entry.parent} ({reason}); name another folder with "
        "--cache-dir or VIT_COLOSSAL_CACHE, or decode on the fly: --no-cache"
    )


def _build(
    entry: Path,
    chunks: Iterable[list[Row]],
    count: int | None,
    options: CacheOptions,
    more: dict[str, Any],
) -> None:
    """Write the entry beside its place and rename it, so that it is complete or absent."""
    _announce(entry, count, options)
    # A process that died while building leaves these behind; the lock says that it is gone.
    unfinished = entry.with_suffix(".partial")
    for leftover in (unfinished, entry):
        remove(leftover)
    unfinished.mkdir()
    try:
        with progress_bar(count, options) as bar, (unfinished / "images.npy").open("wb") as stream:
            labels, checksums, bad = _write_images(stream, chunks, options, bar)
            stream.flush()
            os.fsync(stream.fileno())
        refuse_bad(bad, len(labels) + len(bad), options)
        how = options.preprocessing
        meta = {"shape": [len(labels), *how.shape], "resample": how.resample}
        meta |= {"policy": POLICY_VERSION, "bad": bad, **more}
        write_index(unfinished, labels, checksums, meta)
        unfinished.rename(entry)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _announce(entry: Path, count: int | None, options: CacheOptions) -> None:
    """Say what it will take, and whether the disk has it."""
    shape = options.preprocessing.shape
    one = math.prod(shape) / 1e6
    megabytes = one * (1 if count is None else count)
    needed = megabytes + one * options.images_to_follow
    free = shutil.disk_usage(entry.parent).free / 1e6
    if count is None:
        images, each = "a stream of images", f"{megabytes:.2f} MB each"
    else:
        images, each = f"{count:,} images", f"{megabytes:.1f} MB"
    logger.info("decoding %s to %d x %d px: %s in %s", images, *shape[1:], each, entry)
    if needed > free:
        raise OSError(f"{needed:.0f} MB needed in all, {free:.0f} MB free")


def _write_images(
    stream: IO[bytes], chunks: Iterable[list[Row]], options: CacheOptions, bar: Any
) -> tuple[list[int], list[int], list[BadImage]]:
    """Decode on all cores and write in order; returns labels, checksums, and what was left out."""
    # Plain writes and not a mapped file: on a full disk a write raises, a mapped page kills.
    write_header(stream, (0, *options.preprocessing.shape))
    labels: list[int] = []
    checksums: list[int] = []
    bad: list[BadImage] = []
    with ThreadPoolExecutor() as pool:
        for rows in chunks:
            decoded = decode_rows(rows, options.preprocessing, pool)
            for row, image in zip(rows, decoded, strict=True):
                if isinstance(image, BadImage):
                    bad.append(image)
                else:
                    stream.write(image.tobytes())
                    labels.append(row.label)
                    checksums.append(checksum(image))
            bar.update(len(rows))
    write_header(stream, (len(labels), *options.preprocessing.shape))
    return labels, checksums, bad
