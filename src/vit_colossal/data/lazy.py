"""Images decoded whenever they are asked for, for those who have no room for the cache."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_colossal.data.cache import (
    CachedSplit,
    CacheOptions,
    locked,
    progress_bar,
    refuse_bad,
    rows_of,
)
from vit_colossal.data.decoding import BadImage, Row, decode_rows
from vit_colossal.data.sources.images import undecoded

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


class LazyImages:
    """Stands in for the cache's array, with the same pixels bit for bit."""

    def __init__(self, dataset: datasets.Dataset, image_column: str, options: CacheOptions) -> None:
        self._rows = undecoded(dataset, image_column, dataset.features[image_column])
        self._column = image_column
        self._how = options.preprocessing

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, 3, H, W]."""
        return (len(self._rows), 3, *self._how.size)

    def __len__(self) -> int:
        return len(self._rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def __getitem__(self, places: Any) -> np.ndarray:
        """Decode some images.

        Args:
            places: A number, a slice, or an array of numbers from 0 to N - 1.

        Returns:
            uint8 [3, H, W] for a number, else [B, 3, H, W].

        Raises:
            OSError: A file has been changed or removed since it was checked.
        """
        if isinstance(places, int | np.integer):
            return self[[int(places)]][0]
        numbers = np.arange(len(self))[places].tolist()
        encoded = self._rows[numbers][self._column]
        rows = [Row(*row, 0) for row in zip(numbers, encoded, strict=True)]
        images = np.empty((len(rows), 3, *self._how.size), np.uint8)
        for place, image in enumerate(decode_rows(rows, self._how)):
            if isinstance(image, BadImage):
                raise OSError(f"cannot be decoded any more: {image}")
            images[place] = image
        return images


def check_images(
    dataset: datasets.Dataset,
    image_column: str,
    label_column: str,
    key: str,
    options: CacheOptions,
) -> CachedSplit:
    """Decode every image once without keeping it, and return the split without the bad ones.

    The outcome is kept, so that one process checks and all leave out the same samples.

    Args:
        dataset: Rows with an ``Image`` column and an integer label column.
        image_column: Name of the image column.
        label_column: Name of the label column.
        key: Identifies the rows: the source's fingerprint and the split's name.
        options: How to decode, and where to keep the outcome.

    Returns:
        The split; its images are decoded when they are asked for.

    Raises:
        DataError: Images cannot be decoded and are not to be skipped, or none can; or the outcome
            cannot be written.
    """
    place = options.entry(key, image_column, label_column).with_suffix(".checked.json")
    bad = _recall(place)
    if bad is None:
        with locked(place):
            bad = _recall(place)
            if bad is None:
                bad = _find_bad(dataset, image_column, label_column, options)
                refuse_bad(bad, len(dataset), options)
                partial = place.with_suffix(".partial")
                partial.write_text(json.dumps({"bad": bad}) + "\n")
                partial.rename(place)
    refuse_bad(bad, len(dataset), options)
    left_out = {image.number for image in bad}
    if left_out:
        dataset = dataset.select([i for i in range(len(dataset)) if i not in left_out])
    labels = np.array(dataset.select_columns([label_column])[:][label_column], dtype=np.int64)
    return CachedSplit(LazyImages(dataset, image_column, options), labels, tuple(bad))


def _recall(place: Path) -> list[BadImage] | None:
    try:
        return [BadImage(*image) for image in json.loads(place.read_text())["bad"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _find_bad(
    dataset: datasets.Dataset, image_column: str, label_column: str, options: CacheOptions
) -> list[BadImage]:
    logger.info(
        "checking %s images, which --no-cache decodes again in training", f"{len(dataset):,}"
    )
    bad: list[BadImage] = []
    with ThreadPoolExecutor() as pool, progress_bar(len(dataset), options) as bar:
        for rows in rows_of(dataset, image_column, label_column)():
            decoded = decode_rows(rows, options.preprocessing, pool)
            bad += [image for image in decoded if isinstance(image, BadImage)]
            bar.update(len(rows))
    return bad
