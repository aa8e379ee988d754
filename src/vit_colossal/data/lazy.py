"""Images decoded whenever they are asked for, for those who have no room for the cache."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vit_colossal.data.cache import CacheOptions, locked, progress_bar, refuse_bad, rows_of
from vit_colossal.data.decoding import BadImage, decode_rows
from vit_colossal.data.pixels import CachedSplit, LazyImages, checksum, digest_of
from vit_colossal.durable import replacing

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


class _Outcome(NamedTuple):
    """What decoding every image once has told: the bad ones, and the digest of the others."""

    bad: list[BadImage]
    digest: str


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
    outcome = _recall(place)
    if outcome is None:
        with locked(place):
            outcome = _recall(place)
            if outcome is None:
                outcome = _decode_once(dataset, image_column, label_column, options)
                refuse_bad(outcome.bad, len(dataset), options)
                with replacing(place) as file:
                    file.write(json.dumps(outcome._asdict()) + "\n")
    bad = outcome.bad
    refuse_bad(bad, len(dataset), options)
    left_out = {image.number for image in bad}
    if left_out:
        dataset = dataset.select([i for i in range(len(dataset)) if i not in left_out])
    labels = np.array(dataset.select_columns([label_column])[:][label_column], dtype=np.int64)
    images = LazyImages(dataset, image_column, options.preprocessing, outcome.digest)
    return CachedSplit(images, labels, tuple(bad))


def _recall(place: Path) -> _Outcome | None:
    try:
        values = json.loads(place.read_text())
        return _Outcome([BadImage(*image) for image in values["bad"]], str(values["digest"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _decode_once(
    dataset: datasets.Dataset, image_column: str, label_column: str, options: CacheOptions
) -> _Outcome:
    logger.info(
        "checking %s images, which --no-cache decodes again in training", f"{len(dataset):,}"
    )
    bad: list[BadImage] = []
    checksums: list[int] = []
    with ThreadPoolExecutor() as pool, progress_bar(len(dataset), options) as bar:
        for rows in rows_of(dataset, image_column, label_column)():
            decoded = decode_rows(rows, options.preprocessing, pool)
            for image in decoded:
                if isinstance(image, BadImage):
                    bad.append(image)
                else:
                    checksums.append(checksum(image))
            bar.update(len(rows))
    return _Outcome(bad, digest_of(checksums))
