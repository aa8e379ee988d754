"""Data sets on this machine: Parquet and Arrow files, and folders with one folder per class."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from vit_colossal.errors import DataError

if TYPE_CHECKING:
    import datasets

# In order of preference.
EVAL_SPLITS = ("validation", "valid", "val", "dev", "test")
TABLE_SUFFIXES = (".parquet", ".arrow")
IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)


def load_local(
    path: Path, train_split: str, eval_split: str | None
) -> tuple[dict[str, datasets.Dataset], str]:
    """Load a file, a folder with Parquet or Arrow files, or a folder of images.

    Args:
        path: An existing file or folder.
        train_split: Name of the training folder of a folder of images.
        eval_split: Name of its evaluation folder, when it is none of ``EVAL_SPLITS``.

    Returns:
        The splits by name, and a digest of every file's relative path, size and content.

    Raises:
        DataError: There is nothing usable, or something is unreadable.
    """
    root = path.resolve()
    try:
        if root.is_file():
            files, root = [root], root.parent
        else:
            files = _visible_files(root, TABLE_SUFFIXES)
        if files:
            splits = _load_tables(path, root, files)
        else:
            splits, files = _load_folder(path, root, train_split, eval_split)
        return splits, _content_of(root, files)
    except OSError as error:
        raise DataError([f"--dataset {path}: cannot be read ({error})"]) from error


def _load_tables(path: Path, root: Path, files: list[Path]) -> dict[str, datasets.Dataset]:
    """The split is what the file's name, or else its folder's, starts with; one file is `train`."""
    import datasets

    suffixes = {file.suffix.lower() for file in files}
    if len(suffixes) > 1 or not suffixes <= set(TABLE_SUFFIXES):
        found = " and ".join(sorted(suffixes)) or "a file without suffix"
        raise DataError([f"--dataset {path}: expected .parquet or .arrow files, found {found}"])
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
    patterns = {split: [glob.escape(str(f)) for f in same] for split, same in by_split.items()}
    try:
        return dict(datasets.load_dataset(suffixes.pop()[1:], data_files=patterns))
    except Exception as error:  # a damaged file raises whatever its reader met first
        reason = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
        raise DataError([f"--dataset {path}: cannot be read ({reason})"]) from error


def _load_folder(
    path: Path, root: Path, train_split: str, eval_split: str | None
) -> tuple[dict[str, datasets.Dataset], list[Path]]:
    """One folder per class, in the folder itself or in each of its split folders.

    Not through the ``imagefolder`` loader: it drops the labels of unevenly nested folders, and
    merges a class that only the validation folder has, both without a word.
    """
    names = [folder.name for folder in _visible_folders(root)]
    if train_split in names:
        known = {train_split, eval_split, *EVAL_SPLITS}
        parts = {name: root / name for name in names if name in known}
    elif names and set(names) <= set(EVAL_SPLITS):
        found = ", ".join(names)
        raise DataError([f"--dataset {path}: no folder {train_split!r}, only {found}"])
    else:
        parts = {"train": root}
    splits: dict[str, datasets.Dataset] = {}
    every_file: list[Path] = []
    problems = []
    for split, part in parts.items():
        folders = {f.name: _visible_files(f, IMAGE_SUFFIXES) for f in _visible_folders(part)}
        classes = {name: files for name, files in folders.items() if files}
        loose = sum(file.suffix.lower() in IMAGE_SUFFIXES for file in part.iterdir())
        if loose or not classes:
            state = f"{loose} image(s) outside of a class folder" if loose else "no images"
            problems.append(
                f"--dataset {path}: {state} in {part}; expected one folder of images per class, "
                "or these inside train/ and validation/, or .parquet or .arrow files"
            )
        else:
            splits[split] = _from_classes(classes)
            every_file += [file for files in classes.values() for file in files]
    if problems:
        raise DataError(problems)
    return splits, every_file


def _from_classes(classes: dict[str, list[Path]]) -> datasets.Dataset:
    import datasets

    names = sorted(classes)
    rows = {
        "image": [str(file) for name in names for file in classes[name]],
        "label": [i for i, name in enumerate(names) for _ in classes[name]],
    }
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    return datasets.Dataset.from_dict(rows, features=features)


def _visible_folders(root: Path) -> list[Path]:
    folders = (path for path in root.iterdir() if path.is_dir())
    return sorted(f for f in folders if not f.name.startswith((".", "__MACOSX")))


def _visible_files(root: Path, suffixes: Collection[str]) -> list[Path]:
    """The files below ``root`` with one of the suffixes, sorted; no hidden and no cache files."""
    found = (path for path in root.rglob("*") if path.suffix.lower() in suffixes)
    return sorted(
        path
        for path in found
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        # Both lie beside data, and are not data: `metadata.parquet` and the library's own caches.
        and not path.name.startswith(("metadata.", "cache-"))
    )


def _content_of(root: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        line = f"{file.relative_to(root).as_posix()}\0{file.stat().st_size}\0{content}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()
