"""WebDataset shards: tar files whose neighbouring members of one name are one sample.

Nothing is extracted or copied. A shard's headers are read once, which finds the place of each
image in the file and the text of each label; an image is read when it is decoded. Not through
`datasets`, which copies the shards, drops images whose suffix differs from the first one's, and
unpickles members called ``.pth``. The format: https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import itertools
import json
import re
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from vit_colossal.data.sources.columns import labelled_images
from vit_colossal.data.sources.label_values import label_problems
from vit_colossal.data.sources.labels import LABEL_COLUMNS
from vit_colossal.data.sources.problems import listed
from vit_colossal.errors import DataError

if TYPE_CHECKING:
    import datasets

#: In order of preference: beside its label a sample may bring a caption or its history.
_LABEL_MEMBERS = ("cls", "txt", "json")
_MAX_LABEL_BYTES = 1 << 20
_MAX_SHARDS = 100_000
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_PLACE = re.compile(
    r"(?P<shard>.+?\.(?i:tar))::(?P<member>.*)@(?P<offset>\d+)\+(?P<size>\d+)", re.DOTALL
)


class _Member(NamedTuple):
    key: str
    suffix: str
    info: tarfile.TarInfo


def is_pattern(name: str) -> bool:
    """Whether ``name`` stands for several shards, like ``train-{000..003}.tar``."""
    return name.lower().endswith(".tar") and _BRACES.search(name) is not None


def expand_braces(pattern: str) -> list[Path]:
    """``train-{000..003}.tar`` as four paths; a name without braces as one.

    Args:
        pattern: A path with any number of numeric ranges.

    Returns:
        The paths in order; they need not exist.

    Raises:
        DataError: More than 100,000 paths.
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [Path(pattern)]
    first, last = match[1], match[2]
    if int(last) - int(first) >= _MAX_SHARDS:
        raise DataError([f"--dataset {pattern}: more than {_MAX_SHARDS:,} files"])
    numbers = (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
    names = (pattern[: match.start()] + n + pattern[match.end() :] for n in numbers)
    return list(itertools.chain.from_iterable(expand_braces(name) for name in names))


def open_file(path: str) -> IO[bytes]:
    """Open a file, or an image inside a shard.

    Args:
        path: A file, or what :func:`read_shards` gave an image as its path.

    Raises:
        OSError: It cannot be read, or the shard has become shorter.
    """
    place = _PLACE.fullmatch(path)
    if place is None:
        return open(path, "rb")
    with open(place["shard"], "rb") as shard:
        shard.seek(int(place["offset"]))
        content = shard.read(int(place["size"]))
    if len(content) < int(place["size"]):
        raise OSError("the shard ends before the image does")
    return BytesIO(content)


def shard_and_member(path: str) -> tuple[str, str] | None:
    """The shard of what :func:`read_shards` gave an image as its path, and its name in there."""
    place = _PLACE.fullmatch(path)
    return None if place is None else (place["shard"], place["member"])


def read_shards(
    shards: list[Path],
    image_suffixes: frozenset[str],
    image_column: str | None,
    label_column: str | None,
) -> datasets.Dataset:
    """Find the samples of some shards.

    Args:
        shards: Tar files, in order.
        image_suffixes: What images end with, dot and all.
        image_column: The suffix of the images, where samples hold several.
        label_column: The suffix of the labels (``cls``, ``txt``), or a key of the ``.json``;
            None takes ``.cls``, ``.txt`` or the ``label`` of the ``.json``, in this order.

    Returns:
        Rows with an ``Image`` column and a label column of text.

    Raises:
        DataError: A shard is damaged, or samples lack an image or a label; all are listed.
    """
    suffixes = {image_column} if image_column else {s.removeprefix(".") for s in image_suffixes}
    places: list[Any] = []
    labels: list[Any] = []
    where: list[str] = []
    absent: list[str] = []
    problems: list[str] = []
    for shard in shards:
        try:
            with tarfile.open(shard, "r:") as tar:
                for key, group in itertools.groupby(_members(tar), key=lambda m: m.key):
                    members = {member.suffix: member.info for member in group}
                    where.append(f"{shard.name}, sample {key}")
                    label = None
                    try:
                        image = _only_image(members, suffixes)
                        label = _label(tar, members, label_column)
                    except LookupError as error:
                        absent.append(f"{where[-1]}: {error.args[0]}")
                    except (ValueError, RecursionError) as error:
                        problems.append(f"{where.pop()}: {error}")
                        continue
                    name = f"{image.name}@{image.offset_data}+{image.size}"
                    places.append({"bytes": None, "path": f"{shard}::{name}"})
                    labels.append(label)
        except tarfile.TarError as error:
            problems.append(f"{shard}: not a readable .tar file ({error}); unpack .tar.gz first")
    if any(label is not None for label in labels):
        problems += absent
    problems += label_problems(labels, label_column or "label", lambda row: where[row])
    if not places and not problems:
        problems = [f"{shard}: holds no samples" for shard in shards]
    if problems:
        raise DataError(listed(problems))
    found = labels if any(label is not None for label in labels) else None
    return labelled_images(image_column or "image", places, label_column or "label", found)


def _members(tar: tarfile.TarFile) -> Iterator[_Member]:
    """The files with a key and a suffix; hidden ones and those of macOS are none."""
    end = 0
    for info in tar:
        end = info.offset_data + (-(-info.size // 512) * 512 if info.isreg() else 0)
        folder, _, name = info.name.rpartition("/")
        stem, dot, suffix = name.partition(".")
        if info.isreg() and stem and dot and not info.issparse():
            yield _Member(f"{folder}/{stem}" if folder else stem, suffix.lower(), info)
        tar.members = []  # type: ignore[attr-defined]  # the module would keep every header
    # Its reader takes a damaged header for the end.
    if tar.fileobj is not None:
        tar.fileobj.seek(end)
        if any(tar.fileobj.read(512)):
            raise tarfile.ReadError(f"damaged at byte {end}")


def _only_image(members: dict[str, tarfile.TarInfo], suffixes: set[str]) -> tarfile.TarInfo:
    found = sorted(suffixes & members.keys())
    if not found:
        raise ValueError(f"no image among {', '.join(sorted(members))}")
    if len(found) > 1:
        raise ValueError(f"several images, choose one of {', '.join(found)} with --image-column")
    return members[found[0]]


def _label(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], asked: str | None) -> Any:
    """The sample's label: text, or whatever the JSON holds."""
    present = [asked] if asked in members else [s for s in _LABEL_MEMBERS if s in members]
    if asked is not None and asked not in members:
        present = [suffix for suffix in present if suffix == "json"]
    if not present:
        wanted = asked or " or ".join(f".{suffix}" for suffix in _LABEL_MEMBERS)
        raise LookupError(f"no label ({wanted}) among {', '.join(sorted(members))}")
    suffix = str(present[0])
    info = members[suffix]
    if info.size > _MAX_LABEL_BYTES:
        raise ValueError(f".{suffix} of {info.size:,} bytes is no label")
    stream = tar.extractfile(info)
    text = (stream.read() if stream else b"").decode().strip()
    if suffix != "json":
        return text
    value = json.loads(text)
    if not isinstance(value, dict):
        return value
    keys = [asked] if asked is not None and asked != "json" else list(LABEL_COLUMNS)
    found = [value[key] for key in keys if key in value]
    if not found:
        raise ValueError(f"no {' or '.join(keys)} in its .json: name one with --label-column")
    return found[0]
