"""HEIC, which phones write: read by pi-heif, a decoder alone, where that is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import IO, TYPE_CHECKING

from PIL import ExifTags, Image

from vit_colossal.data.sources.problems import listed

if TYPE_CHECKING:
    import datasets

#: What Pillow calls it once pi-heif has been registered.
FORMAT = "HEIF"
SUFFIXES = (".heic", ".heif")
HOW_TO_READ = "pip install 'vit_colossal[heic]' (or pi-heif), or convert to JPEG"
#: How such a file calls itself, in its bytes 8 to 12.
BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1")
#: The properties of an image that turn and mirror it (ISO/IEC 23008-12, 6.5.10 and 6.5.12).
_TURNS = (b"irot", b"imir")


def is_installed() -> bool:
    """Whether such files can be read."""
    return find_spec("pi_heif") is not None


def register() -> None:
    """Let Pillow open such files, if they can be read."""
    if is_installed():
        from pi_heif import register_heif_opener

        register_heif_opener()


def unreadable(dataset: datasets.Dataset, image_column: str, split: str) -> list[str]:
    """Lines on the files that cannot be read here; none is opened.

    Args:
        dataset: rows with an image column.
        image_column: its name; cells that name no file are left to the decoder.
        split: its name, for the message.
    """
    import datasets

    if is_installed() or not isinstance(dataset.features[image_column], datasets.Image):
        return []
    column = dataset.select_columns([image_column]).with_format("arrow")[:][image_column]
    paths = [path for path in column.combine_chunks().field("path").to_pylist() if path]
    found = [path for path in paths if is_named_so(path)]
    if not found:
        return []
    what = f"{len(found)} of {len(dataset)} {split} images are HEIC"
    return [f"{what}: {HOW_TO_READ}; or leave them out: --skip-bad-images", *listed(found)]


def is_named_so(path: str | None) -> bool:
    """Whether a file is of this kind, by its name."""
    return path is not None and path.lower().endswith(SUFFIXES)


def keep_orientation(image: Image.Image, stream: IO[bytes]) -> None:
    """Leave an orientation that only EXIF states for whoever turns images by their EXIF.

    The decoder turns an image as the file's own properties say and takes the orientation out of its
    EXIF, which phones write beside them, and which would turn it twice. Converters may write EXIF
    alone: then it is as good as in a JPEG.

    Args:
        image: As pi-heif opened it, not loaded yet.
        stream: The file.
    """
    orientation = image.info.get("original_orientation")
    if orientation and not any(turn in _meta_box(stream) for turn in _TURNS):
        image.getexif()[ExifTags.Base.Orientation] = orientation


def _meta_box(stream: IO[bytes]) -> bytes:
    """The box that describes a file's images: boxes are a size, a type and what they hold."""
    place = stream.tell()
    try:
        stream.seek(0)
        while len(head := stream.read(8)) == 8:
            size, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind == b"meta":
                return stream.read(max(0, size - 8))
            if size < 8:  # 0 is the rest of the file, 1 a longer size; neither precedes this box
                break
            stream.seek(size - 8, 1)
        return b""
    finally:
        stream.seek(place)
