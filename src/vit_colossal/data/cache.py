"""Every image decoded, resized and kept once, as one array on disk that all processes map."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from vit_colossal.errors import DataError

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

# Part of every key: raise it whenever `to_rgb` or `decode` would give other pixels.
POLICY_VERSION = 1
_CHUNK = 256
_MAX_LISTED = 20


@dataclass(frozen=True)
class CachedSplit:
    """A split that needs no decoding.

    Attributes:
        images: uint8 [N, 3, H, W]; mapped from disk and read-only, so that the processes of a
            machine share one copy in memory.
        labels: int64 [N].
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def default_cache_root() -> Path:
    """``$VIT_COLOSSAL_CACHE``, or else ``~/.cache/vit_colossal``."""
    root = os.environ.get("VIT_COLOSSAL_CACHE")
    return Path(root).expanduser() if root else Path.home() / ".cache" / "vit_colossal"


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn an image of any mode into 8-bit RGB; the one place that decides how.

    The first frame is taken, the EXIF orientation applied, transparency laid over white, and
    16-bit grey scaled by 1/257 (65535 to 255), where Pillow's own conversion clips it to white.

    Args:
        image: An opened image; sizes are kept, up to the rotation.

    Returns:
        The image in mode ``RGB``.

    Raises:
        ValueError: Its values have no defined range (floats, or integers beyond 16 bits).
        OSError: It cannot be decoded.
    """
    image.seek(0)
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range")
    if image.mode.startswith("I"):
        return _from_wide_grey(image).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _from_wide_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"integer pixels from {low} to {high} do not fit 16 bits")
    # Pillow opens some 8-bit files in the 32-bit mode "I"; "I;16" is 16-bit by declaration.
    if image.mode != "I" or high > 255:
        values = (values + 128) // 257
    return Image.fromarray(values.astype(np.uint8))


def decode(image: Image.Image, size: tuple[int, int], resample: int) -> np.ndarray:
    """Convert and resize one image as ``transformers.ViTImageProcessor`` does.

    Args:
        image: An opened image.
        size: Height and width in pixels.
        resample: A ``PIL.Image.Resampling`` number.

    Returns:
        uint8 [3, H, W].

    Raises:
        ValueError: See :func:`to_rgb`.
        OSError: See :func:`to_rgb`.
    """
    height, width = size
    resized = to_rgb(image).resize((width, height), Image.Resampling(resample))
    return np.asarray(resized).transpose(2, 0, 1)


def prepare_images(
    dataset: datasets.Dataset,
    image_column: str,
    label_column: str,
    *,
    size: tuple[int, int],
    resample: int,
    key: str,
    root: Path,
    progress: bool,
) -> CachedSplit:
    """Return the decoded split, building it first unless some process already did.

    Safe to call from any number of processes at once: one builds, the others wait for it.

    Args:
        dataset: Rows with an ``Image`` column and an integer label column.
        image_column: Name of the image column.
        label_column: Name of the label column.
        size: Height and width in pixels.
        resample: A ``PIL.Image.Resampling`` number.
        key: Identifies the rows: the source's fingerprint and the split's name.
        root: Folder of all caches.
        progress: Show a bar while building, if stderr is a terminal.

    Returns:
        The split, mapped from ``root``.

    Raises:
        DataError: Images cannot be decoded (up to 20 are listed), or ``root`` cannot be written.
    """
    from filelock import FileLock

    identity = [key, image_column, label_column, list(size), int(resample), POLICY_VERSION]
    entry = root / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    split = _open(entry)
    if split is not None:
        return split
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.with_suffix(".lock")):
            split = _open(entry)
            if split is None:
                rows = _rows(dataset, image_column, label_column)
                _build(entry, rows, len(dataset), size, resample, progress)
                split = _open(entry)
    except OSError as error:
        raise DataError([_unwritable(root, str(error))]) from error
    if split is None:
        raise DataError([_unwritable(root, f"{entry} is damaged right after it was written")])
    return split


def _unwritable(root: Path, reason: str) -> str:
    return (
        f"cannot write the image cache {root} ({reason}); set VIT_COLOSSAL_CACHE to another folder"
    )


def _open(entry: Path) -> CachedSplit | None:
    """The finished cache entry; None if it is absent or damaged."""
    try:
        images = np.load(entry / "images.npy", mmap_mode="r")
        labels = np.load(entry / "labels.npy")
        shape = json.loads((entry / "meta.json").read_text())["shape"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError) as error:
        logger.warning("rebuilding the damaged image cache %s (%s)", entry, error)
        return None
    whole = list(images.shape) == shape and len(labels) == len(images)
    return CachedSplit(images, labels) if whole else None


_Row = tuple[int, dict[str, Any], int]  # row number, {"bytes", "path"}, label


def _rows(dataset: datasets.Dataset, image_column: str, label_column: str) -> Iterator[list[_Row]]:
    """Chunks of undecoded rows: decoding is ours, so that one bad image does not hide the next."""
    import datasets

    raw = dataset.cast_column(image_column, datasets.Image(decode=False))
    for start in range(0, len(raw), _CHUNK):
        chunk = raw[start : start + _CHUNK]
        numbers = range(start, start + len(chunk[label_column]))
        yield list(zip(numbers, chunk[image_column], chunk[label_column], strict=True))


def _build(
    entry: Path,
    chunks: Iterator[list[_Row]],
    count: int,
    size: tuple[int, int],
    resample: int,
    progress: bool,
) -> None:
    """Write the entry beside its place and rename it, so that it is complete or absent."""
    from tqdm import tqdm

    shape = [count, 3, *size]
    megabytes = int(np.prod(shape)) / 1e6
    free = shutil.disk_usage(entry.parent).free / 1e6
    logger.info(
        "decoding %s images to %d x %d px: %.1f MB in %s", f"{count:,}", *size, megabytes, entry
    )
    if megabytes > free:
        raise OSError(f"{megabytes:.0f} MB needed, {free:.0f} MB free")
    # A process that died while building leaves these behind; the lock says that it is gone.
    partial = entry.with_suffix(".partial")
    for leftover in (partial, entry):
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir()
    bar = tqdm(total=count, unit="image", disable=not (progress and sys.stderr.isatty()))
    try:
        with bar, (partial / "images.npy").open("wb") as stream:
            labels = _write_images(stream, shape, chunks, resample, bar)
            stream.flush()
            os.fsync(stream.fileno())
        np.save(partial / "labels.npy", np.array(labels, dtype=np.int64))
        meta = {"shape": shape, "resample": resample, "policy": POLICY_VERSION}
        (partial / "meta.json").write_text(json.dumps(meta) + "\n")
        partial.rename(entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_images(
    stream: Any, shape: list[int], chunks: Iterator[list[_Row]], resample: int, bar: Any
) -> list[int]:
    """Decode on all cores (Pillow releases the GIL) and write in order; returns the labels."""
    size = (shape[2], shape[3])
    # Plain writes and not a mapped file: on a full disk a write raises, a mapped page kills.
    header = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(stream, header)
    labels: list[int] = []
    problems: list[str] = []
    with ThreadPoolExecutor() as pool:
        for rows in chunks:
            for image in pool.map(lambda row: _decode_row(row, size, resample), rows):
                if isinstance(image, str):
                    problems.append(image)
                else:
                    stream.write(image.tobytes())
            labels += [label for _, _, label in rows]
            bar.update(len(rows))
    if problems:
        listed = problems[:_MAX_LISTED]
        if len(problems) > _MAX_LISTED:
            listed.append(f"... and {len(problems) - _MAX_LISTED} more")
        total = f"{len(problems)} of {shape[0]} images cannot be decoded; repair or remove them:"
        raise DataError([total, *listed])
    return labels


def _decode_row(row: _Row, size: tuple[int, int], resample: int) -> np.ndarray | str:
    """The pixels, or what is wrong with the image."""
    number, encoded, _ = row
    encoded = encoded or {"bytes": None, "path": None}
    path = encoded["path"]
    try:
        if encoded["bytes"] is None and path is None:
            raise ValueError("there is no image")
        source = path if encoded["bytes"] is None else BytesIO(encoded["bytes"])
        with Image.open(source) as image:
            return decode(image, size, resample)
    except Exception as error:  # Pillow's readers raise whatever broken bytes lead them to
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return f"image {number}{f' ({path})' if path else ''}: {reason}"
