"""What a cell of an image column holds: bytes, text that stands for them, pixels or a file's name.

Cells stay as they are until an image is decoded; only the names of files are looked up before, and
only below the data's own folder. Nothing is downloaded.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np

from vit_colossal.text import cell

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg",
    ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
))
# fmt: on
_ADDRESS = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+://")
_DATA_URI = re.compile(r"data:(image/[\w.+-]+|application/octet-stream)?(;[\w=.+-]+)*,", re.I)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{40,}[\sA-Za-z0-9+/_-]*={0,2}\s*")
_OF_PYTHON = re.compile(r"b(['\"])(.*)\1", re.DOTALL)
# How PNG, JPEG, GIF, WebP, TIFF (two orders) and BMP begin, as base64.
_BEGINNINGS = ("iVBORw0KGgo", "/9j/", "_9j_", "R0lGOD", "UklGR", "SUkqA", "TU0AK", "Qk")
_NUMBERS = ("int", "uint", "float", "bool")
#: How many rows decide what a column of text holds.
SAMPLED = 100
NO_DOWNLOAD = "nothing is downloaded during a run: fetch the images first, and name the files"


def is_address(text: str) -> bool:
    """Whether a cell is an address on the web (or in a store), and not a file's."""
    return _ADDRESS.match(text.strip()) is not None


def is_encoded(text: str) -> bool:
    """Whether a cell is the image itself, as a data URI or in base64."""
    start = _bare(text)[:60]
    if _DATA_URI.match(start):
        return True
    return start.startswith(_BEGINNINGS) and _BASE64.fullmatch(start) is not None


def encoded(value: Any) -> Any:
    """The image in a cell.

    Args:
        value: ``{"bytes", "path"}`` as `datasets` keeps images, bytes, numbers from 0 to 255 that
            are bytes, a data URI, base64, nested lists of pixels; or a list of one of these.

    Returns:
        ``{"bytes", "path"}``, pixels as an array, or None where there is no image. Paths are those
        of ``image_files.with_files``, or of a library's own files.

    Raises:
        ValueError: It is something else, or several images; the reason as the end of a line.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, dict):
        content = value.get("bytes")
        content = _from_text(content) if isinstance(content, str) else content
        return {"bytes": content, "path": value.get("path")}
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value), "path": None}
    if isinstance(value, str):
        return {"bytes": _from_text(value), "path": None}
    if isinstance(value, list | np.ndarray):
        return _from_list(value)
    raise ValueError(f"{cell(value)} is no image")


def in_text(value: Any) -> Any:
    """A cell of a table: JSON can wrap what CSV writes as it is.

    Returns:
        The text in ``{"path": …}``, ``{"bytes": …}`` or a list of one; anything else as it was.
    """
    if isinstance(value, list) and len(value) == 1:
        return in_text(value[0])
    if isinstance(value, dict) and value.keys() & {"bytes", "path"}:
        return value.get("path") if value.get("bytes") is None else value["bytes"]
    return value


def text_columns(columns: dict[str, list[Any]], known: Collection[str] = ()) -> list[str]:
    """The columns whose text is mostly images or their names.

    Args:
        columns: The first cells of each; most of them decide, so that a row that is wrong does not
            hide its column.
        known: Other names of images.

    Returns:
        Their names; those of web addresses only where there are no others, as they may be of
        the same images.
    """
    found: dict[bool, list[str]] = {False: [], True: []}
    for name, values in columns.items():
        texts = _texts(values)
        images = sum(is_image_text(text) or text.strip() in known for text in texts)
        if 2 * images > len(texts):
            found[2 * sum(map(is_address, texts)) > len(texts)].append(name)
    return found[False] or found[True]


def is_image_text(text: str) -> bool:
    """Whether one cell is an image, or the name or address of one."""
    return is_encoded(text) or is_address(text) or _suffix(text) in IMAGE_SUFFIXES


def mostly_encoded(values: Sequence[Any]) -> bool:
    """Whether a column of text holds the images themselves, and not the names of files."""
    texts = _texts(values)
    return 2 * sum(map(is_encoded, texts)) > len(texts)


def addresses_refused(column: str, values: Sequence[Any]) -> str | None:
    """What is wrong with a column of addresses on the web, in one line; None if it is none."""
    texts = _texts(values)
    addresses = [text for text in texts if is_address(text)]
    if 2 * len(addresses) <= len(texts):
        return None
    return f"--image-column {column}: holds web addresses ({cell(addresses[0])}); {NO_DOWNLOAD}"


def _texts(values: Sequence[Any]) -> list[str]:
    return [text for text in map(in_text, values) if isinstance(text, str) and text.strip()]


def _suffix(text: str) -> str:
    return os.path.splitext(text.strip())[1].lower()


def undecoded(rows: Any, column: str, feature: Any) -> Any:
    """The rows (``Dataset`` or ``IterableDataset``) with a column's cells as they are kept."""
    import datasets

    if isinstance(feature, datasets.Image):
        return rows.cast_column(column, datasets.Image(decode=False))
    if isinstance(getattr(feature, "feature", None), datasets.Image):
        return rows.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return rows


def may_be_images(feature: Any) -> bool:
    """Whether a column of this type holds images; text may be anything, and its cells decide."""
    import datasets

    inner = getattr(feature, "feature", None)
    if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature):
        return True
    if isinstance(feature, datasets.Array2D | datasets.Array3D):
        return True
    if getattr(inner, "feature", None) is not None:
        return _pixel_type(feature) is not None
    return str(getattr(feature, "dtype", "")).endswith("binary") or (
        inner is not None and may_be_images(inner)
    )


def type_refused(feature: Any, column: str) -> str | None:
    """What is wrong with a column of this type as images, in one line; None if it may hold them."""
    kind = _pixel_type(feature)
    if kind not in (None, "uint8"):
        fix = "store them as uint8 from 0 to 255, or as the bytes of PNG files"
        return f"--image-column {column}: holds pixels as {kind}, whose range is unknown; {fix}"
    text = str(getattr(feature, "dtype", "")).endswith("string")
    text = text or str(getattr(getattr(feature, "feature", None), "dtype", "")).endswith("string")
    if kind or text or may_be_images(feature) or (isinstance(feature, dict) and "path" in feature):
        return None
    return f"--image-column {column}: holds {cell(str(feature))}, not images"


def _pixel_type(feature: Any) -> str | None:
    """The type of the numbers in nested lists; None of other columns."""
    import datasets

    if isinstance(feature, datasets.Array2D | datasets.Array3D):
        return str(feature.dtype)
    inner = feature
    while getattr(inner, "feature", None) is not None:
        inner = inner.feature
    dtype = str(getattr(inner, "dtype", ""))
    return dtype if inner is not feature and dtype.startswith(_NUMBERS) else None


def _bare(text: str) -> str:
    text = text.strip()
    python = _OF_PYTHON.fullmatch(text)
    return python[2] if python else text


def _from_text(text: str) -> bytes:
    if is_address(text):
        raise ValueError(f"{cell(text)} is a web address; {NO_DOWNLOAD}")
    if not is_encoded(text):
        raise ValueError(f"{cell(text)} is no image: neither base64 nor a file below the data")
    text = _bare(text)
    head = _DATA_URI.match(text)
    if head and ";base64" not in head[0].lower():
        return unquote_to_bytes(text[head.end() :])
    body = "".join(text[head.end() if head else 0 :].split()).translate({45: "+", 95: "/"})
    try:
        return base64.b64decode(
            body.rstrip("=") + "=" * (-len(body.rstrip("=")) % 4), validate=True
        )
    except binascii.Error as error:
        raise ValueError(f"damaged base64 ({error})") from None


def _from_list(value: Any) -> Any:
    if not len(value):
        return None
    if isinstance(value[0], list | np.ndarray) or _is_number(value[0]):
        return _from_numbers(value)
    if len(value) > 1:
        raise ValueError(f"{len(value)} images in one row, and a sample is one: keep one of them")
    found = encoded(value[0])
    if isinstance(found, dict) and found["bytes"] is None:
        raise ValueError("a list that names a file: write its name without the list")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number)


def _from_numbers(value: Any) -> Any:
    try:
        pixels = np.asarray(value)
    except ValueError:
        raise ValueError("rows of pixels of different lengths") from None
    if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 255:
        raise ValueError("pixels are not whole numbers from 0 to 255")
    pixels = pixels.astype(np.uint8)
    return {"bytes": pixels.tobytes(), "path": None} if pixels.ndim == 1 else pixels
