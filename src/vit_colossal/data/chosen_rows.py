"""Some rows of a decoded split, in place of a copy of them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from vit_colossal.data.pixels import CachedSplit, Pixels, images_digest


class ChosenImages:
    """Some of a split's images, in place of a copy of them.

    Args:
        images: uint8 [N, C, H, W].
        rows: Which of them, int64 [M].
    """

    def __init__(self, images: Pixels, rows: np.ndarray) -> None:
        self._images, self._rows = images, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """[M, C, H, W]."""
        return (len(self._rows), *self._images.shape[1:])

    @property
    def digest(self) -> str:
        """See `images_digest`; of all images and which of them."""
        whole = images_digest(self._images)
        return hashlib.sha256(whole.encode() + self._rows.astype("<i8").tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def __getitem__(self, places: Any) -> np.ndarray:
        return self._images[self._rows[places]]


def choose_rows(split: CachedSplit, numbers: list[int]) -> CachedSplit:
    """Some rows of a split, nothing copied.

    Args:
        split: N images and the bad ones, with numbers from 0 to N + bad - 1 in all.
        numbers: Which ones, in their new order.

    Returns:
        The chosen ones, renumbered.
    """
    bad = {image.number: image for image in split.bad}
    # The place of a good image: its number without the bad ones before it.
    places = np.array([n for n in numbers if n not in bad], np.int64)
    places -= np.searchsorted(np.array(sorted(bad), np.int64), places)
    left_out = tuple(
        bad[number]._replace(number=place) for place, number in enumerate(numbers) if number in bad
    )
    return CachedSplit(ChosenImages(split.images, places), split.labels[places], left_out)
