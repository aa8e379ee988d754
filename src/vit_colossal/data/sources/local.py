"""Data sets on this machine: tables, shards, and folders with one folder per class."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from vit_colossal.data.sources.columns import image_columns, sampler
from vit_colossal.data.sources.fingerprint import content_of
from vit_colossal.data.sources.folders import IMAGE_SUFFIXES, load_folder, visible_files
from vit_colossal.data.sources.image_files import ImageFiles, with_files
from vit_colossal.data.sources.request import EVAL_SPLITS, SourceRequest
from vit_colossal.data.sources.rows import Rows
from vit_colossal.data.sources.tables import TEXT_SUFFIXES, read_tables
from vit_colossal.data.sources.webdataset import expand_braces, read_shards
from vit_colossal.errors import DataError
from vit_colossal.text import cell

Reader = Callable[[Path, dict[str, list[Path]], SourceRequest], Rows]


class Local(NamedTuple):
    """A data set on this machine.

    Attributes:
        splits: By name: rows, or an ``IterableDataset`` of Parquet or Arrow files that are asked
            for as a stream. (Of everything else nothing is copied anyway.)
        content: A digest of every file's relative path, size and content.
        notes: What a person should know, one line each.
    """

    splits: dict[str, Any]
    content: str
    notes: tuple[str, ...] = ()


def load_local(path: Path, request: SourceRequest, memory: Path) -> Local:
    """Load files, a folder of files, or a folder of images.

    Args:
        path: An existing file or folder, or a pattern of files (``train-{000..003}.tar``).
        request: The names of splits and columns.
        memory: Folder in which digests of files are kept.

    Raises:
        DataError: There is nothing usable, or something is unreadable.
    """
    # A folder is looked for under the name of the whole split, not of a part of it.
    train, evaluation = (
        name and name.partition("[")[0] for name in (request.train_split, request.eval_split)
    )
    try:
        root, files = _data_files(path)
        if not files:
            folder = load_folder(path, root, train or "train", evaluation)
            return Local(folder.splits, content_of(root, folder.files, memory), folder.notes)
        by_split = _by_split(path, root, files)
        suffix = _common_suffix(path, files)
        rows = READERS[suffix](path, by_split, request)
        files = list(dict.fromkeys([*files, *rows.images]))
        return Local(rows.splits, content_of(root, files, memory), rows.notes)
    except OSError as error:
        raise DataError([f"--dataset {path}: cannot be read ({error})"]) from error


def _data_files(path: Path) -> tuple[Path, list[Path]]:
    """The folder, and the files in it that hold data; none are a folder of images."""
    if not os.path.exists(path):
        files = [file.resolve() for file in expand_braces(str(path))]
        missing = [f"--dataset {path}: {f} is missing" for f in files if not f.is_file()]
        if missing:
            raise DataError(missing[:20])
        return Path(os.path.commonpath([file.parent for file in files])), files
    root = path.resolve()
    if root.is_file():
        return root.parent, [root]
    others = tuple(suffix for suffix in READERS if suffix not in (*TEXT_SUFFIXES, ".tar"))
    binary = visible_files(root, others)
    named = {f for f in root.iterdir() if f.stem in ("train", *EVAL_SPLITS) and f.is_file()}
    text = sorted(f for f in named if f.suffix.lower() in TEXT_SUFFIXES)
    if binary or any(file.stem == "train" for file in text):
        return root, binary or text
    # An archive beside the images that were unpacked from it is no data set.
    return root, [] if visible_files(root, IMAGE_SUFFIXES) else visible_files(root, (".tar",))


def _by_split(path: Path, root: Path, files: list[Path]) -> dict[str, list[Path]]:
    """The split is what the file's name, or else its folder's, starts with; one file is `train`."""
    by_split: dict[str, list[Path]] = {}
    for file in files:
        parts = file.relative_to(root).parts[::-1]
        starts = (s for part in parts for s in ("train", *EVAL_SPLITS) if part.startswith(s))
        by_split.setdefault(next(starts, ""), []).append(file)
    if len(files) == 1 or set(by_split) == {""}:
        by_split = {"train": files}
    elif "" in by_split:
        raise DataError(
            [
                f"--dataset {path}: {file} belongs to no split; let its name start with train, "
                "validation or test"
                for file in by_split[""]
            ]
        )
    return by_split


def _common_suffix(path: Path, files: list[Path]) -> str:
    suffixes = {file.suffix.lower() for file in files}
    if len(suffixes) > 1 or not suffixes <= READERS.keys():
        found = " and ".join(sorted(suffixes)) if suffixes != {""} else "a file without suffix"
        known = ", ".join(READERS)
        raise DataError([f"--dataset {path}: expected files of one kind ({known}), found {found}"])
    return suffixes.pop()


def _read_library(
    path: Path, by_split: dict[str, list[Path]], request: SourceRequest, *, kind: str
) -> Rows:
    """What `datasets` has a builder for: ``kind`` is its name."""
    import datasets

    splits: dict[str, Any] = {}
    try:
        # One by one: together, the labels of the first split would be taken for those of all.
        for split, same in by_split.items():
            patterns = {split: [glob.escape(str(file)) for file in same]}
            streaming = request.streaming
            splits |= datasets.load_dataset(kind, data_files=patterns, streaming=streaming)
    except Exception as error:  # a damaged file raises whatever its reader met first
        reason = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
        # What the library makes of a table of no rows.
        reason = "it has no rows" if "BatchSize must be greater" in reason else reason
        raise DataError([f"--dataset {path}: cannot be read ({cell(reason)})"]) from error
    if request.streaming:
        return Rows(splits)
    return _with_files(path, by_split, splits, request.image_column)


def _with_files(
    path: Path, by_split: dict[str, list[Path]], splits: dict[str, Any], asked: str | None
) -> Rows:
    """The rows, with the image files that they name in place of images."""
    root = path.resolve() if path.is_dir() else path.resolve().parent
    images: list[Path] = []
    for split, rows in splits.items():
        # Shards in a folder of their own name files as the data set's folder has them.
        finder = ImageFiles([*(file.parent for file in by_split[split]), root], root)
        for column in [asked] if asked else image_columns(rows.features, sampler(rows)):
            if column in rows.features:
                splits[split], found = with_files(splits[split], column, finder, split)
                images += found
    return Rows(splits, images)


def _read_shards(path: Path, by_split: dict[str, list[Path]], request: SourceRequest) -> Rows:
    columns = request.image_column, request.label_column
    return Rows(
        {name: read_shards(same, IMAGE_SUFFIXES, *columns) for name, same in by_split.items()}
    )


def _read_text(path: Path, by_split: dict[str, list[Path]], request: SourceRequest) -> Rows:
    splits: dict[str, Any] = {}
    images: list[Path] = []
    notes: tuple[str, ...] = ()
    problems: list[str] = []
    for split, same in by_split.items():
        try:
            found = read_tables(same, request.image_column, request.label_column)
            splits[split] = found.rows
            images += found.images
            notes += tuple(note for note in found.notes if note not in notes)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return Rows(splits, images, notes)


#: What reads the files of a data set, by suffix. It gets the data set's path for messages, the
#: files of each split, and the request; it gives rows by split and the image files they name.
READERS: dict[str, Reader] = {
    ".parquet": partial(_read_library, kind="parquet"),
    ".arrow": partial(_read_library, kind="arrow"),
    **dict.fromkeys(TEXT_SUFFIXES, _read_text),
    ".tar": _read_shards,
}
