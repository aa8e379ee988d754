"""What comparing the image cache's checksums costs: CPU time per image, first read and again."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from vit_colossal.data.pixels import CachedImages, checksum

COUNT, SIZE, BATCH, TRIALS = 1024, 224, 32, 3


def main() -> None:
    """Read random images in random batches, twice."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (COUNT, 3, SIZE, SIZE), dtype=np.uint8)
    checksums = np.array([checksum(image) for image in images], np.uint32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npy"
        np.save(file, images)
        for _ in range(TRIALS):
            cached = CachedImages(file, images.shape, checksums)
            order = random.permutation(COUNT).reshape(-1, BATCH)
            first, again = (_microseconds(cached, order) for _ in range(2))
            print(f"{SIZE} px: {first:.0f} us an image when first read, {again:.0f} us again")


def _microseconds(images: CachedImages, order: np.ndarray) -> float:
    start = time.process_time()
    for places in order:
        images[places]
    return (time.process_time() - start) / order.size * 1e6


if __name__ == "__main__":
    main()
