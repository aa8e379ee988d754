"""Folders of images: one folder per class, in the folder itself or in each split's."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vit_colossal.data.sources.images import IMAGE_SUFFIXES
from vit_colossal.data.sources.problems import listed
from vit_colossal.data.sources.request import EVAL_SPLITS
from vit_colossal.errors import DataError

if TYPE_CHECKING:
    import datasets

# fmt: off
# Images that are not read: leaving them out deserves a word.
_OTHER_IMAGES = frozenset((
    ".arw", ".cr2", ".cr3", ".dng", ".eps", ".heic", ".heif", ".jxl", ".nef", ".psd", ".raw",
    ".svg",
))
# fmt: on

_Classes = dict[str, list[Path]]


class Folder(NamedTuple):
    """A folder of images.

    Attributes:
        splits: The rows of each split.
        files: All images.
        notes: What a person should know, one line each.
    """

    splits: dict[str, datasets.Dataset]
    files: list[Path]
    notes: tuple[str, ...]


def load_folder(path: Path, root: Path, train_split: str, eval_split: str | None) -> Folder:
    """Find the images of every class; none is opened.

    Not through the ``imagefolder`` loader: it drops the labels of unevenly nested folders, and
    merges a class that only the validation folder has, both without a word.

    Args:
        path: The folder, as it was named.
        root: The same, resolved.
        train_split: Name of the training folder.
        eval_split: Name of the evaluation folder, when it is none of ``EVAL_SPLITS``.

    Raises:
        DataError: Images lie elsewhere, a class has none, or links lead out of the folder.
        OSError: A folder cannot be read.
    """
    problems = [f"--dataset {path}: {link}" for link in _links_out(root)]
    parts = _split_folders(path, root, train_split, eval_split)
    classes: dict[str, _Classes] = {}
    for split, part in parts.items():
        found = {f.name: visible_files(f, IMAGE_SUFFIXES) for f in visible_folders(part)}
        classes[split] = {name: files for name, files in found.items() if files}
        problems += _class_problems(path, part, found, training=split in ("train", train_split))
    if problems:
        raise DataError(listed(problems))
    names = sorted(classes[train_split if train_split in classes else "train"])
    files = [file for part in classes.values() for same in part.values() for file in same]
    return Folder(
        {split: _rows(found, names) for split, found in classes.items()}, files, _left_out(root)
    )


def visible_folders(root: Path) -> list[Path]:
    """The folders in ``root``, sorted; no hidden ones."""
    folders = (path for path in root.iterdir() if path.is_dir())
    return sorted(f for f in folders if not f.name.startswith((".", "__MACOSX")))


def visible_files(root: Path, suffixes: Collection[str]) -> list[Path]:
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


def _split_folders(
    path: Path, root: Path, train_split: str, eval_split: str | None
) -> dict[str, Path]:
    names = [folder.name for folder in visible_folders(root)]
    if train_split in names:
        known = {train_split, eval_split, *EVAL_SPLITS}
        return {name: root / name for name in names if name in known}
    if names and set(names) <= set(EVAL_SPLITS):
        found = ", ".join(names)
        raise DataError([f"--dataset {path}: no folder {train_split!r}, only {found}"])
    return {"train": root}


def _class_problems(path: Path, part: Path, found: _Classes, *, training: bool) -> list[str]:
    loose = sum(f.suffix.lower() in IMAGE_SUFFIXES and f.name[0] != "." for f in part.iterdir())
    if loose or not any(found.values()):
        state = f"{loose} image(s) outside of a class folder" if loose else "no images"
        others = _left_out(part)
        return [
            f"--dataset {path}: {state} in {part}; expected one folder of images per class, "
            "or these inside train/ and validation/, or .parquet, .arrow, .csv, .jsonl or .tar "
            "files" + (f" ({others[0]})" if others else "")
        ]
    empty = [name for name, files in found.items() if not files] if training else []
    problems = []
    for folder in (part / name for name in empty):
        others = _left_out(folder)
        advice = others[0].removeprefix(f"{folder}: ") if others else "fill or remove it"
        problems.append(f"--dataset {path}: no images in the class folder {folder}; {advice}")
    return problems


def _rows(classes: _Classes, names: list[str]) -> datasets.Dataset:
    """The rows of one split; labels that training does not have are left for `checked` to name."""
    import datasets

    if not classes.keys() <= set(names):
        names = sorted(classes)
    rows = {
        "image": [str(file) for name in names for file in classes.get(name, ())],
        "label": [i for i, name in enumerate(names) for _ in classes.get(name, ())],
    }
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    return datasets.Dataset.from_dict(rows, features=features)


def _walk(root: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(root) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    yield from _walk(Path(entry.path))


def _links_out(root: Path) -> list[str]:
    """A data set is what lies in its folder: links to folders could also lead round in circles."""
    problems = []
    for entry in _walk(root):
        if entry.is_symlink():
            target = Path(os.path.realpath(entry.path))
            if target.is_dir():
                problems.append(f"{entry.path} is a link to a folder; put the folder itself there")
            elif not target.exists():
                problems.append(f"{entry.path} is a link to {target}, which is not there")
            elif not target.is_relative_to(root):
                problems.append(f"{entry.path} is a link to {target}; put the file itself there")
    return problems


def _left_out(root: Path) -> tuple[str, ...]:
    suffixes = (os.path.splitext(entry.name)[1].lower() for entry in _walk(root))
    found = Counter(suffix for suffix in suffixes if suffix in _OTHER_IMAGES)
    if not found:
        return ()
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(found.items()))
    return (f"{root}: left out {kinds}; convert them to JPEG to use them",)
