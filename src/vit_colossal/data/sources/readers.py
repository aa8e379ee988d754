"""What reads the files of a data set, by suffix."""

from __future__ import annotations

import glob
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vit_colossal.data.sources.columns import image_columns, sampler
from vit_colossal.data.sources.image_files import ImageFiles, with_files
from vit_colossal.data.sources.images import IMAGE_SUFFIXES
from vit_colossal.data.sources.repeated_images import in_several_splits
from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.rows import Rows
from vit_colossal.data.sources.scan import ARCHIVES
from vit_colossal.data.sources.split_names import kind_of_split, matching
from vit_colossal.data.sources.tables import TEXT_SUFFIXES, TrainingColumns, read_tables
from vit_colossal.data.sources.webdataset import read_shards
from vit_colossal.errors import DataError
from vit_colossal.hub import is_lfs_pointer
from vit_colossal.text import cell

#: What can be made of other files.
_INSTEAD = {
    **dict.fromkeys(ARCHIVES, "unpack it, and name the folder"),
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".txt"), "save the table as CSV in UTF-8"),
    ".json": "write JSON lines (.jsonl), one object a row",
}

Reader = Callable[[Path, dict[str, list[Path]], SourceRequest], Rows]


def common_suffix(path: Path, files: list[Path]) -> str:
    """The one of ``READERS`` that all files end with.

    Args:
        path: The data set, for messages.
        files: All of them.

    Raises:
        DataError: They are of several kinds, of another one, or there are none.
    """
    suffixes = {file.suffix.lower() for file in files}
    if len(suffixes) > 1 or not suffixes <= READERS.keys():
        found = " and ".join(sorted(suffixes)) if suffixes != {""} else "a file without suffix"
        known = ", ".join(READERS)
        fix = "".join({f"; {_INSTEAD[s]}": None for s in sorted(suffixes) if s in _INSTEAD})
        raise DataError(
            [f"--dataset {path}: expected files of one kind ({known}), found {found}{fix}"]
        )
    missing = [file for file in files if is_lfs_pointer(file)]
    if missing:
        count = f"{len(missing)} of {len(files)} files ({missing[0].name} ...)"
        raise DataError(
            [f"--dataset {path}: {count} are pointers of git LFS: run git lfs pull in that folder"]
        )
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
    splits = {name: read_shards(same, IMAGE_SUFFIXES, *columns) for name, same in by_split.items()}
    if all(len(rows.column_names) == 1 for rows in splits.values()):
        raise DataError(
            [
                f"--dataset {path}: no sample has a label beside its image (.cls, .txt or .json); "
                "if the folders in it are the classes, unpack it and name the folder"
            ]
        )
    return Rows(splits)


def _read_text(path: Path, by_split: dict[str, list[Path]], request: SourceRequest) -> Rows:
    splits: dict[str, Any] = {}
    images: list[Path] = []
    notes: tuple[str, ...] = ()
    problems: list[str] = []
    train = matching((request.train_split or "train").partition("[")[0], by_split)
    training: TrainingColumns | None = None
    own: dict[str, list[Path]] = {}
    for split, same in sorted(by_split.items(), key=lambda item: item[0] != train):
        known = training
        if training and kind_of_split(split) == "test":
            known = training._replace(others=None)
        try:
            asked = request.image_column, request.label_column
            found = read_tables(same, *asked, training=known)
        except DataError as error:
            problems += error.problems
            continue
        splits[split] = found.rows
        images += found.images
        own[split] = found.images
        notes += tuple(note for note in found.notes if note not in notes)
        if split == train:
            training = TrainingColumns(found.rows.column_names[1], frozenset(found.columns))
    if problems:
        raise DataError(problems)
    return Rows(splits, images, (*notes, *in_several_splits(own)))


#: What reads the files of a data set, by suffix. It gets the data set's path for messages, the
#: files of each split, and the request; it gives rows by split and the image files they name.
READERS: dict[str, Reader] = {
    ".parquet": partial(_read_library, kind="parquet"),
    ".arrow": partial(_read_library, kind="arrow"),
    **dict.fromkeys(TEXT_SUFFIXES, _read_text),
    ".tar": _read_shards,
}
