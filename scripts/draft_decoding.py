"""What `--jpeg-draft` gains on 12-megapixel JPEGs, and how far off its pixels are.

    python scripts/draft_decoding.py

Two photographs that scikit-learn brings along, made as large as a phone's and given its noise, in
baseline and in progressive files, decoded to 224 x 224: CPU time of the fastest of five, in one
thread.
"""

from __future__ import annotations

import time
from dataclasses import replace
from io import BytesIO
from itertools import product

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from vit_colossal.data.decoding import decode
from vit_colossal.model.preprocessing import Preprocessing

LARGE = (4032, 3024)
WHOLE = Preprocessing(size=(224, 224))


def phone_jpeg(pixels: np.ndarray, seed: int, *, progressive: bool) -> bytes:
    """A photograph as a file of a phone's size."""
    large = np.asarray(Image.fromarray(pixels).resize(LARGE, Image.Resampling.BICUBIC), np.float32)
    noise = np.random.default_rng(seed).normal(0, 6, large.shape)
    stream = BytesIO()
    image = Image.fromarray((large + noise).clip(0, 255).astype(np.uint8))
    image.save(stream, "JPEG", quality=92, progressive=progressive)
    return stream.getvalue()


def timed(content: bytes, how: Preprocessing) -> tuple[float, np.ndarray]:
    """CPU milliseconds, and the pixels."""
    found = []
    for _ in range(5):
        before = time.process_time()
        pixels = decode(Image.open(BytesIO(content)), how)
        found.append(time.process_time() - before)
    return 1e3 * min(found), pixels.astype(int)


if __name__ == "__main__":
    print("coding       KB    whole ms  draft ms  times as fast  largest difference  mean")
    photographs = enumerate(load_sample_images().images)
    for (seed, photograph), progressive in product(photographs, (False, True)):
        content = phone_jpeg(photograph, seed, progressive=progressive)
        (slow, expected), (fast, found) = (
            timed(content, replace(WHOLE, draft=draft)) for draft in (False, True)
        )
        off, coding = abs(found - expected), "progressive" if progressive else "baseline"
        print(
            f"{coding:11} {len(content) // 1024:5} {slow:8.0f} {fast:9.0f} {slow / fast:14.1f} "
            f"{off.max():19} {off.mean():5.2f}"
        )
