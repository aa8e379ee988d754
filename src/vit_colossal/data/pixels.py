"""Decoded images, wherever they come from: the cache, whose bytes are checked, or their files."""

from __future__ import annotations

import hashlib
import logging
import math
import mmap
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vit_colossal.data.decoding import BadImage, Row, decode_rows
from vit_colossal.data.sources.images import undecoded
from vit_colossal.durable import open_no_link
from vit_colossal.errors import UserError
from vit_colossal.model.preprocessing import Preprocessing

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

#: What the cache says of an entry; without it there is none.
META = "meta.json"
#: What NumPy writes before an array of this kind.
HEADER_BYTES = 128


class Pixels(Protocol):
    """What is asked of images: an array, or something that reads like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, C, H, W]."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, places: Any, /) -> np.ndarray: ...

    def __array__(self) -> np.ndarray: ...


@dataclass(frozen=True)
class CachedSplit:
    """A split's pixels and labels.

    Attributes:
        images: uint8 [N, C, H, W]; mapped from disk and read-only, so that the processes of a
            machine share one copy in memory.
        labels: int64 [N].
        bad: The samples that were left out, as they cannot be decoded.
    """

    images: Pixels
    labels: np.ndarray
    bad: tuple[BadImage, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


class CacheDamaged(UserError):
    """An image of the cache is no longer what was decoded, and cannot be decoded anew alone."""


def checksum(image: np.ndarray) -> int:
    """CRC-32 of an image's bytes: any damage within 32 bits shows, other with all but 2^-32.

    A cryptographic hash takes three times as long, which a first epoch would feel.
    """
    return zlib.crc32(np.ascontiguousarray(image).data)


def digest_of(checksums: Iterable[int] | np.ndarray) -> str:
    """The identity of images in their order, by the checksums of all of them."""
    values = np.fromiter(checksums, np.uint32)
    return hashlib.sha256(values.astype("<u4").tobytes()).hexdigest()


def images_digest(images: Pixels) -> str:
    """The identity of a split's pixels: what decoded them, and where they are kept, is none of it.

    Args:
        images: uint8 [N, C, H, W]; of a plain array all are read.
    """
    known = getattr(images, "digest", None)
    return known if known is not None else digest_of(checksum(image) for image in images[:])


class CachedImages:
    """The array on disk; each image is compared with its checksum when it is first read.

    Args:
        file: a NumPy array; mapped, so that the processes of a machine share one copy in memory.
        shape: [N, C, H, W]; the file's own header is for others, and not trusted.
        checksums: uint32 [N].
        decode: decodes one image again from its source; None where that cannot be done alone.

    Raises:
        OSError: the file is missing.
        ValueError: it is shorter or longer.
    """

    def __init__(
        self,
        file: Path,
        shape: tuple[int, ...],
        checksums: np.ndarray,
        decode: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self.filename, self.shape = file, shape
        if file.stat().st_size != HEADER_BYTES + math.prod(shape):
            raise ValueError(f"{file.name} has {file.stat().st_size} bytes, not what was written")
        self._pixels = np.memmap(file, np.uint8, "r", HEADER_BYTES, shape)
        self._checksums, self._decode = checksums, decode
        # Shared with loader processes, of which each epoch may start new ones.
        self._checked = np.frombuffer(mmap.mmap(-1, max(1, len(checksums))), np.uint8)

    def __reduce__(self) -> tuple[Any, ...]:
        return CachedImages, (self.filename, self.shape, self._checksums, self._decode)

    @property
    def digest(self) -> str:
        """See `images_digest`; nothing is read for it."""
        return digest_of(self._checksums)

    def __len__(self) -> int:
        return len(self._pixels)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # A slice is the file's own bytes: a copy has to be one.
        return np.array(self[:], dtype, copy=copy)

    def __getitem__(self, places: Any) -> np.ndarray:
        """Some images, compared if they are read for the first time.

        Args:
            places: A number, a slice, or an array of numbers from 0 to N - 1.

        Returns:
            uint8 [C, H, W] for a number, else [B, C, H, W].

        Raises:
            CacheDamaged: they were changed after they were written, and cannot be decoded anew.
        """
        pixels = self._pixels[places]
        if isinstance(places, int | np.integer):
            image = self._if_changed(int(places), pixels)
            return pixels if image is None else image
        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)))
        numbers = np.asarray(places)
        for place in np.flatnonzero(self._checked[numbers] == 0):
            image = self._if_changed(int(numbers[place]), pixels[place])
            if image is not None:
                pixels = np.array(pixels)  # a slice is the file's own, and read-only
                pixels[numbers == numbers[place]] = image
        return pixels

    def _if_changed(self, number: int, image: np.ndarray) -> np.ndarray | None:
        """What an image was when it was decoded; None where it still is."""
        if self._checked[number]:
            return None
        if checksum(image) != self._checksums[number]:
            return self._decoded_anew(number)
        self._checked[number] = 1
        return None

    def _decoded_anew(self, number: int) -> np.ndarray:
        entry = self.filename.parent
        what = f"image {number} of the image cache {entry} was changed after it was written"
        image = None if self._decode is None else self._decode(number)
        if image is None or checksum(image) != self._checksums[number]:
            advice = "start again, which builds the cache anew (--resume auto goes on)"
            try:
                (entry / META).unlink(missing_ok=True)  # without it the next start builds all anew
            except OSError:  # a cache of somebody else
                advice = "name another --cache-dir, as this one cannot be written"
            reason = "" if image is None else ", and its file decodes to other pixels than then"
            raise CacheDamaged(f"{what} (CRC-32 differs){reason}: {advice}")
        # Where it cannot be repaired, it is decoded each time.
        with suppress(OSError), open(self.filename, "r+b", opener=open_no_link) as file:
            file.seek(HEADER_BYTES + number * image.nbytes)
            file.write(image.tobytes())
        logger.warning("%s: decoded anew", what)
        return image


class LazyImages:
    """Images decoded whenever they are asked for; the cache's pixels bit for bit.

    Args:
        dataset: Rows with an image column.
        image_column: Its name.
        how: How to decode.
        digest: See `images_digest`; None where nobody has decoded them all.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        image_column: str,
        how: Preprocessing,
        digest: str | None = None,
    ) -> None:
        self._rows = undecoded(dataset, image_column, dataset.features[image_column])
        self._column, self._how, self.digest = image_column, how, digest

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, C, H, W]."""
        return (len(self._rows), *self._how.shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def __getitem__(self, places: Any) -> np.ndarray:
        """Decode some images.

        Args:
            places: A number, a slice, or an array of numbers from 0 to N - 1.

        Returns:
            uint8 [C, H, W] for a number, else [B, C, H, W].

        Raises:
            OSError: A file has been changed or removed since it was checked.
        """
        if isinstance(places, int | np.integer):
            return self[[int(places)]][0]
        numbers = np.arange(len(self))[places].tolist()
        encoded = self._rows[numbers][self._column]
        rows = [Row(*row, 0) for row in zip(numbers, encoded, strict=True)]
        images = np.empty((len(rows), *self._how.shape), np.uint8)
        for place, image in enumerate(decode_rows(rows, self._how)):
            if isinstance(image, BadImage):
                raise OSError(f"cannot be decoded any more: {image}")
            images[place] = image
        return images
