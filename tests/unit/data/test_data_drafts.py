"""Large JPEGs at a part of their size: the same picture, nearly its pixels, a cache of its own."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from vit_colossal.data.cache import CacheOptions
from vit_colossal.data.decoding import decode
from vit_colossal.model.preprocessing import Frame, Preprocessing

WHOLE = Preprocessing(size=(96, 96))
DRAFT = replace(WHOLE, draft=True)


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    return [
        Image.fromarray(pixels).resize((1600, 1067), Image.Resampling.BICUBIC)
        for pixels in load_sample_images().images
    ]


def jpeg(image: Image.Image, orientation: int = 1, kind: str = "JPEG") -> Image.Image:
    exif, stream = Image.Exif(), BytesIO()
    exif[0x0112] = orientation
    image.save(stream, kind, exif=exif)
    return Image.open(BytesIO(stream.getvalue()))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("cut_from", [None, 112, (112, 128)])
def test_pixels_are_a_little_off(
    photographs: list[Image.Image], orientation: int, cut_from: Frame | None
) -> None:
    for image in photographs:
        whole = decode(jpeg(image, orientation), replace(WHOLE, cut_from=cut_from)).astype(int)
        opened = jpeg(image, orientation)
        draft = decode(opened, replace(DRAFT, cut_from=cut_from)).astype(int)
        assert opened.size == (400, 267)  # a quarter
        assert draft.shape == whole.shape
        assert 0 < abs(draft - whole).mean() < 1


def test_what_is_no_large_jpeg_keeps_its_pixels(photographs: list[Image.Image]) -> None:
    small = photographs[0].resize((300, 200))
    for image in (jpeg(small), jpeg(photographs[0], kind="PNG"), jpeg(small.convert("L"))):
        again = image.copy()
        assert np.array_equal(decode(image, DRAFT), decode(again, WHOLE))


def test_uncut_images_are_decoded_whole(photographs: list[Image.Image]) -> None:
    how = Preprocessing(size=(96, 96), cut_from="as it is")
    expected = decode(jpeg(photographs[0]), how)
    assert np.array_equal(decode(jpeg(photographs[0]), replace(how, draft=True)), expected)


def test_the_cache_keeps_them_apart(tmp_path: Path) -> None:
    entries = {CacheOptions(how, tmp_path).entry("a", "b") for how in (WHOLE, DRAFT)}
    assert len(entries) == 2
