"""Encoded images to pixels: one policy for every source, cached or not."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from functools import partial
from io import BytesIO
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from vit_colossal.data import heic
from vit_colossal.data.sources.images import encoded
from vit_colossal.data.sources.webdataset import open_file
from vit_colossal.hub import LFS_POINTER
from vit_colossal.model.preprocessing import Preprocessing
from vit_colossal.plan.channels import MODES
from vit_colossal.text import cell, printable

T = TypeVar("T")

# Part of every cache key: raise it whenever `to_mode` or `decode` would give other pixels.
POLICY_VERSION = 1
# What cameras, scanners and browsers write. Left out are formats that start other programs (EPS),
# documents (PSD), and rare ones whose readers hardly anyone tests.
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Pillow's own limit for what it opens.
_MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)
# How files begin that are often taken for images.
_NOT_READ = {
    b"%!PS": "PostScript",
    b"%PDF": "PDF",
    b"8BPS": "Photoshop",
    b"\xc5\xd0\xd3\xc6": "EPS",
}


class Row(NamedTuple):
    """One undecoded sample.

    Attributes:
        number: Its place in the split.
        encoded: What a cell holds, see :func:`images.encoded`; None is no image.
        label: Its label's number.
    """

    number: int
    encoded: Any
    label: int


class BadImage(NamedTuple):
    """A sample that cannot be decoded.

    Attributes:
        number: Its place in the split.
        path: Its name, if it has one.
        reason: Why, in one line.
        label: Its label's number.
    """

    number: int
    path: str | None
    reason: str
    label: int

    def __str__(self) -> str:
        name = f" ({printable(self.path)})" if self.path else ""
        return f"image {self.number}{name}: {self.reason}"


@functools.cache
def safe_formats() -> tuple[str, ...]:
    """The formats that are read, as far as this Pillow has them."""
    Image.init()
    heic.register()
    return tuple(name for name in (*_FORMATS, heic.FORMAT) if name in Image.OPEN)


def to_mode(image: Image.Image, mode: str = "RGB") -> Image.Image:
    """Turn an image of any mode into one of ``channels.MODES``; the one place that decides how.

    The first frame is taken, the EXIF orientation applied, transparency laid over white where it is
    not asked for, and 16-bit grey scaled by 1/257 (65535 to 255), where Pillow's own conversion
    clips it to white. Colours become grey by their luma (ITU-R BT.601); grey stays as it is.

    Args:
        image: An opened image; sizes are kept, up to the rotation.
        mode: What is wanted.

    Returns:
        The image in this mode.

    Raises:
        ValueError: Its values have no defined range (floats, or integers beyond 16 bits).
        OSError: It cannot be decoded.
    """
    image.seek(0)
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range")
    if image.mode.startswith("I"):
        image = _from_wide_grey(image)
    elif image.has_transparency_data and not mode.endswith("A"):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    # By way of colours, which every mode can be turned into.
    colours = {"L": "RGB", "LA": "RGBA"}.get(mode)
    return image.convert(mode) if colours is None else image.convert(colours).convert(mode)


def _from_wide_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"integer pixels from {low} to {high} do not fit 16 bits")
    # Pillow opens some 8-bit files in the 32-bit mode "I"; "I;16" is 16-bit by declaration.
    if image.mode != "I" or high > 255:
        values = (values + 128) // 257
    return Image.fromarray(values.astype(np.uint8))


def decode(image: Image.Image, how: Preprocessing) -> np.ndarray:
    """Convert, resize and crop one image as the image processors of transformers do with Pillow.

    Args:
        image: An opened image.
        how: Which pixels are wanted.

    Returns:
        uint8 [C, H, W].

    Raises:
        ValueError: See :func:`to_mode`; or it is too oblong to resize its shorter edge.
        OSError: See :func:`to_mode`.
    """
    drafted = how.draft and isinstance(image, JpegImageFile)
    whole = _decode_at_a_part(image, how) if drafted else None
    image = to_mode(image, how.mode)
    height, width = how.frame_of(*(whole or (image.height, image.width)))
    if width * height > _MOST_PIXELS:
        raise ValueError(f"its shorter edge resized, it would have {height} x {width} pixels")
    image = image.resize((width, height), Image.Resampling(how.resample))
    if how.cut_from is not None:
        image = _center(image, how.size)
    return np.asarray(image).reshape(*how.size, -1).transpose(2, 0, 1)


def _decode_at_a_part(image: Image.Image, how: Preprocessing) -> tuple[int, int]:
    """Let libjpeg decode a JPEG at 1/2, 1/4 or 1/8 of its size, if that is twice the wanted one.

    At least twice, as averaging what is left then hides much of what the cut took away: the next
    smaller part is hardly faster, and two to three times as far off (docs/data.md).

    Returns:
        Height and width of the whole image, upright.
    """
    lies = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    upright = (image.width, image.height) if lies else (image.height, image.width)
    height, width = how.frame_of(*upright)
    image.draft(None, (2 * height, 2 * width) if lies else (2 * width, 2 * height))
    return upright


def _center(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of an image, with black around one that is smaller; odd rests lie below it."""
    left, top = (image.width - size[1]) // 2, (image.height - size[0]) // 2
    return image.crop((left, top, left + size[1], top + size[0]))


def decode_rows(
    rows: Iterable[Row], how: Preprocessing, pool: Executor | None = None
) -> list[np.ndarray | BadImage]:
    """Decode some samples.

    Args:
        rows: Undecoded samples.
        how: Which pixels are wanted.
        pool: Threads to decode in, as Pillow releases the GIL; None decodes in this one.

    Returns:
        In the order of the rows, for each uint8 [C, H, W] or what is wrong with it.
    """
    run = map if pool is None else pool.map
    with warnings.catch_warnings():
        # Up to twice Pillow's limit is what large cameras do; beyond that it raises.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return list(run(lambda row: _used(row, partial(decode, how=how)), rows))


def no_images(rows: Iterable[Row]) -> list[BadImage]:
    """Those that are no images by their first bytes; none is decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # as in decode_rows
        opened = [_used(row, lambda image: None) for row in rows]
    return [image for image in opened if image is not None]


def _used(row: Row, use: Callable[[Image.Image], T]) -> T | BadImage:
    """What an opened image gives, or what is wrong with it."""
    path = None
    try:
        found = encoded(row.encoded)
        if isinstance(found, np.ndarray):
            return use(_from_pixels(found))
        if found is None or (found["bytes"] is None and found["path"] is None):
            raise ValueError("there is no image")
        # A file's own name in full; what a cell says beside its bytes may be anything.
        path = found["path"]
        path = path if path is None or found["bytes"] is None else cell(path)
        with _open(found) as stream, _identify(stream) as image:
            return use(image)
    except Exception as error:  # Pillow's readers raise whatever broken bytes lead them to
        reason = printable((str(error) or type(error).__name__).splitlines()[0])
        return BadImage(row.number, path, reason, row.label)


def whole_picture(value: Any, longest: int) -> Image.Image:
    """The picture in a cell as it is, neither cropped nor distorted.

    Args:
        value: What a cell holds, see :func:`images.encoded`.
        longest: Its longer side is reduced to this; a much smaller one is enlarged by a whole
            factor, so that every pixel of it shows.

    Raises:
        ValueError: There is none, or it cannot be converted to RGB.
        OSError: It cannot be read.
    """
    found = encoded(value)
    if isinstance(found, np.ndarray):
        image = to_mode(_from_pixels(found))
    elif found is None or (found["bytes"] is None and found["path"] is None):
        raise ValueError("there is no image")
    else:
        with warnings.catch_warnings(), _open(found) as stream, _identify(stream) as opened:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # as in decode_rows
            opened.draft(None, (2 * longest, 2 * longest))  # of a JPEG, no more is decoded
            image = to_mode(opened)
    return at_most(image, longest)


def picture_of(pixels: np.ndarray) -> Image.Image:
    """What a model sees, uint8 [C, H, W], as people can look at it: in RGB."""
    bands = [Image.fromarray(band) for band in pixels]
    return to_mode(Image.merge(MODES[len(bands)], bands))


def at_most(image: Image.Image, longest: int) -> Image.Image:
    """An image whose longer side is ``longest`` or the last whole multiple before it."""
    factor = longest // max(image.size)
    if factor > 1:
        size = (factor * image.width, factor * image.height)
        return image.resize(size, Image.Resampling.NEAREST)
    image.thumbnail((longest, longest))
    return image


def _open(found: dict[str, Any]) -> IO[bytes]:
    return open_file(found["path"]) if found["bytes"] is None else BytesIO(found["bytes"])


def _from_pixels(pixels: np.ndarray) -> Image.Image:
    """An image of uint8 [H, W], [H, W, 1 or 3 or 4] or the same with the channels first."""
    if pixels.ndim == 4 and len(pixels) == 1:
        pixels = pixels[0]
    shape = "x".join(map(str, pixels.shape))
    if pixels.ndim == 3:
        last, first = pixels.shape[2] in (1, 3, 4), pixels.shape[0] in (1, 3, 4)
        if last == first:
            raise ValueError(f"pixels of shape {shape}: one side has to be 1, 3 or 4 channels")
        pixels = pixels if last else pixels.transpose(1, 2, 0)
        pixels = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    if pixels.ndim not in (2, 3) or min(pixels.shape[:2]) < 2:
        raise ValueError(f"pixels of shape {shape} are no picture")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _identify(stream: IO[bytes]) -> Image.Image:
    """Open an image of a safe format, or say what the bytes are instead."""
    head = stream.read(64)
    stream.seek(0)
    try:
        image = Image.open(stream, formats=safe_formats())
        if image.format == heic.FORMAT:
            heic.keep_orientation(image, stream)
        return image
    except UnidentifiedImageError:
        raise ValueError(_what_it_is(head)) from None


def _what_it_is(head: bytes) -> str:
    if not head:
        return "the file is empty"
    if head.startswith(LFS_POINTER):
        return "this is a pointer of git LFS, not the image: run git lfs pull there"
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        return "this is HTML, XML or SVG text, not an image"
    if head[4:8] == b"ftyp" and head[8:12] in heic.BRANDS:
        broken = "this HEIC is damaged, or of a kind that pi-heif does not read"
        return broken if heic.is_installed() else f"to read HEIC: {heic.HOW_TO_READ}"
    for start, name in _NOT_READ.items():
        if head.startswith(start):
            return f"{name} is not read; convert it to PNG or JPEG"
    return f"not an image of a known format ({', '.join(safe_formats())})"
