"""Data sets on this machine: tables, shards, and folders with one folder per class."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vit_colossal.data.fingerprint import content_of
from vit_colossal.data.folders import IMAGE_SUFFIXES, load_folder, visible_files
from vit_colossal.data.request import EVAL_SPLITS, SourceRequest
from vit_colossal.data.tables import TEXT_SUFFIXES, read_tables
from vit_colossal.data.webdataset import expand_braces, read_shards
from vit_colossal.errors import DataError

if TYPE_CHECKING:
    import datasets

_BINARY_SUFFIXES = (".parquet", ".arrow")
#: What a data set that is a file can end with.
FILE_SUFFIXES = (*_BINARY_SUFFIXES, *TEXT_SUFFIXES, ".tar")


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
        if suffix in _BINARY_SUFFIXES:
            splits = _load_binary(path, suffix, by_split, request.streaming)
        elif suffix == ".tar":
            splits = _load_shards(by_split, request)
        else:
            splits, images = _load_text(by_split, request)
            files = list(dict.fromkeys([*files, *images]))
        return Local(splits, content_of(root, files, memory))
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
    binary = visible_files(root, _BINARY_SUFFIXES)
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
    if len(suffixes) > 1 or not suffixes <= set(FILE_SUFFIXES):
        found = " and ".join(sorted(suffixes)) if suffixes != {""} else "a file without suffix"
        known = ", ".join(FILE_SUFFIXES)
        raise DataError([f"--dataset {path}: expected files of one kind ({known}), found {found}"])
    return suffixes.pop()


def _load_binary(
    path: Path, suffix: str, by_split: dict[str, list[Path]], streaming: bool
) -> dict[str, Any]:
    import datasets

    splits: dict[str, Any] = {}
    try:
        # One by one: together, the labels of the first split would be taken for those of all.
        for split, same in by_split.items():
            patterns = {split: [glob.escape(str(file)) for file in same]}
            splits |= datasets.load_dataset(suffix[1:], data_files=patterns, streaming=streaming)
        return splits
    except Exception as error:  # a damaged file raises whatever its reader met first
        reason = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
        # What the library makes of a table of no rows.
        reason = "it has no rows" if "BatchSize must be greater" in reason else reason
        raise DataError([f"--dataset {path}: cannot be read ({reason})"]) from error


def _load_shards(
    by_split: dict[str, list[Path]], request: SourceRequest
) -> dict[str, datasets.Dataset]:
    columns = request.image_column, request.label_column
    return {split: read_shards(same, IMAGE_SUFFIXES, *columns) for split, same in by_split.items()}


def _load_text(
    by_split: dict[str, list[Path]], request: SourceRequest
) -> tuple[dict[str, datasets.Dataset], list[Path]]:
    splits: dict[str, datasets.Dataset] = {}
    images: list[Path] = []
    problems: list[str] = []
    for split, same in by_split.items():
        try:
            splits[split], found = read_tables(
                same, IMAGE_SUFFIXES, request.image_column, request.label_column
            )
            images += found
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return splits, images
