"""The files that cells of an image column name: found below the data's own folder, or refused."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from vit_colossal.data.sources.images import (
    NO_DOWNLOAD,
    SAMPLED,
    addresses_refused,
    encoded,
    is_address,
    is_encoded,
    mostly_encoded,
    undecoded,
)
from vit_colossal.data.sources.problems import MAX_LISTED, listed
from vit_colossal.errors import DataError
from vit_colossal.text import cell

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

_DRIVE = re.compile(r"[A-Za-z]:[\\/]|[\\/]{2}\w")


class ImageFiles:
    """Looks for files by the names that a table gives them.

    Args:
        folders: What names are relative to: the folder of the table, or of each of several.
        root: The data's own folder, resolved; nothing outside of it is read, links included.
        names: Images by what else a table may call them.
    """

    def __init__(
        self, folders: Iterable[Path], root: Path, names: Mapping[str, Path] = MappingProxyType({})
    ) -> None:
        self._folders = list(dict.fromkeys(folder.resolve() for folder in folders))
        self._root, self._names = root, names
        self._listings: dict[Path, list[str]] = {}
        self._hints_left = MAX_LISTED

    def find(self, name: Any) -> Path:
        """The file that a cell names.

        Args:
            name: A path, relative to the table's folder or absolute; with Windows' separators, as
                ``file://`` or with ``%20`` for a blank, where that names a file.

        Raises:
            ValueError: There is none inside of the data's folder; the reason as the end of a line.
        """
        if not isinstance(name, str) or not name.strip():
            raise ValueError("no image path")
        text = name.strip()
        if is_address(text):
            raise ValueError(f"{cell(text)} is a web address; {NO_DOWNLOAD}")
        found, outside = [], False
        for folder in self._folders:
            for spelling in _spellings(text):
                image = (folder / spelling).resolve()
                if not image.is_relative_to(self._root):
                    outside = True
                elif os.path.isfile(image):
                    found.append(image)
                    break
        if len(set(found)) > 1:
            several = " and ".join(str(image.relative_to(self._root)) for image in set(found))
            raise ValueError(f"{cell(text)} may be {several}; write paths that tell them apart")
        if found or text in self._names:
            return found[0] if found else self._names[text]
        if outside and not _DRIVE.match(text):
            reason = f"lies outside of {self._root}; put the table above its images"
            raise ValueError(f"{cell(text)} {reason}{self._hint(text)}")
        raise ValueError(f"{cell(text)}: no such file below {self._folders[0]}{self._hint(text)}")

    def _hint(self, text: str) -> str:
        """What is there instead: in another case, with a suffix, or under a shorter path."""
        self._hints_left -= 1
        if self._hints_left < 0:  # nobody sees it, and each takes a look around
            return ""
        parts = [part for part in re.split(r"[\\/]+", text) if part not in ("", ".", "..")]
        for start in range(len(parts)):
            for folder in self._folders:
                near = self._nearest(folder, parts[start:])
                if near is not None and near.resolve().is_relative_to(self._root):
                    return f" ({cell(str(near.relative_to(folder)))} is there)"
        return ""

    def _nearest(self, folder: Path, parts: list[str]) -> Path | None:
        for place, part in enumerate(parts):
            names = self._listing(folder)
            last = place == len(parts) - 1
            same = [n for n in names if n.casefold() == part.casefold()]
            same = same or [n for n in names if last and Path(n).stem == part]
            if len(same) != 1 and part not in same:
                return None
            folder = folder / (part if part in same else same[0])
        return folder if folder.is_file() else None

    def _listing(self, folder: Path) -> list[str]:
        if folder not in self._listings:
            try:
                self._listings[folder] = os.listdir(folder)
            except OSError:
                self._listings[folder] = []
        return self._listings[folder]


def _spellings(text: str) -> Iterable[str]:
    """The name itself first: a file may be called so."""
    if text.lower().startswith("file:"):
        yield unquote(re.sub(r"(?i)^file:(//(localhost)?(?=/))?", "", text))
        return
    yield text
    if "\\" in text:
        yield text.replace("\\", "/")
    if "%" in text:
        yield unquote(text.replace("\\", "/"))


def with_files(
    rows: datasets.Dataset, column: str, files: ImageFiles, split: str
) -> tuple[datasets.Dataset, list[Path]]:
    """The rows with the paths of the files that their images are in, where they name files.

    Args:
        rows: Rows of a Parquet or Arrow file.
        column: The column of the images: text, or what holds ``bytes`` and ``path``.
        files: Finds them.
        split: The split's name, for messages.

    Returns:
        The rows, and the files; rows that hold their images themselves are returned as they are.

    Raises:
        DataError: Files are missing, or lie outside of the data's folder; all such rows are listed.
    """
    import datasets

    cells = _names(rows, column)
    if not any(isinstance(name, str) for name in cells):
        return rows, []
    problems: list[str] = []
    found: dict[int, Path] = {}
    for row, name in enumerate(cells):
        if isinstance(name, str):
            try:
                found[row] = files.find(name)
            except ValueError as error:
                problems.append(f"split {split!r}, row {row}: {error}")
    if problems:
        refused = addresses_refused(column, cells)
        raise DataError([refused] if refused else listed(problems))
    if len(found) == len(cells):
        images: list[Any] = [{"bytes": None, "path": str(found[row])} for row in range(len(cells))]
    else:
        values = undecoded(rows, column, rows.features[column])[:][column]
        images = [
            {"bytes": None, "path": str(found[row])} if row in found else encoded(value)
            for row, value in enumerate(values)
        ]
    rows = rows.remove_columns(column).add_column(column, images, feature=datasets.Image())
    return rows, list(found.values())


def refuse_foreign(rows: datasets.Dataset, column: str, split: str) -> None:
    """Raise DataError where rows from the hub name files that the library did not fetch.

    Args:
        rows: What the library made of a data set on the hub.
        column: The column of the images.
        split: The split's name, for messages.
    """
    import datasets
    from huggingface_hub import constants

    caches = (
        datasets.config.HF_DATASETS_CACHE,
        datasets.config.HF_CACHE_HOME,
        constants.HF_HUB_CACHE,
    )
    roots = [Path(cache).resolve() for cache in caches]
    for row, name in enumerate(_names(rows, column)):
        if name is None:
            continue
        path = Path(name)
        if not path.is_absolute() or not any(path.resolve().is_relative_to(r) for r in roots):
            refused = addresses_refused(column, [name])
            reason = f"split {split!r}, row {row}: {cell(name)} names a file, and the data set on "
            raise DataError([refused or f"{reason}the hub holds no image there; choose another"])


def _where_no_bytes(images: pa.StructArray) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    names = images.field("path").cast(pa.string())
    empty = images.is_valid()
    if images.type.get_field_index("bytes") >= 0:
        empty = pc.and_(empty, images.field("bytes").is_null())
    return pc.if_else(empty, names, pa.scalar(None, pa.string()))


def _fields(feature: Any) -> Any:
    import datasets

    if isinstance(feature, datasets.Image):
        return ("bytes", "path")
    return feature if isinstance(feature, dict) else ()


def _names(rows: datasets.Dataset, column: str) -> Sequence[str | None]:
    """Each row's file name; None where the row holds its image. No image is read."""
    import pyarrow as pa

    fields = _fields(rows.features[column])
    table = rows.data.column(column)
    if fields:
        if "path" not in fields:
            return []
        names = pa.chunked_array(
            [_where_no_bytes(chunk) for chunk in table.chunks], type=pa.string()
        )
        found: list[str | None] = names.to_pylist()
        return found
    if not str(getattr(rows.features[column], "dtype", "")).endswith("string"):
        return []
    values = table.to_pylist()
    if mostly_encoded(values[:SAMPLED]):
        return [None if v is None or is_encoded(v) or not v.strip() else v for v in values]
    return ["" if v is None else v for v in values]
