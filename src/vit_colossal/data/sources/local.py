"""Data sets on this machine: tables, shards, and folders of images."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from vit_colossal.data.sources.card import Configuration, find_configuration
from vit_colossal.data.sources.fingerprint import content_of
from vit_colossal.data.sources.folders import inner_folders, load_folder
from vit_colossal.data.sources.images import IMAGE_SUFFIXES
from vit_colossal.data.sources.layout import Layout, find_layout
from vit_colossal.data.sources.metadata import find_tables, read_labelled
from vit_colossal.data.sources.problems import listed
from vit_colossal.data.sources.readers import READERS, common_suffix
from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.scan import FolderNode, Scan, scan
from vit_colossal.data.sources.split_names import matching, splits_of_files
from vit_colossal.data.sources.tables import TEXT_SUFFIXES
from vit_colossal.data.sources.webdataset import expand_braces
from vit_colossal.data.sources.zip_archive import is_zip, packed_folder, unpacked
from vit_colossal.errors import DataError


class Local(NamedTuple):
    """A data set on this machine.

    Attributes:
        splits: By name: rows, or an ``IterableDataset`` of Parquet or Arrow files that are asked
            for as a stream. (Of everything else nothing is copied anyway.)
        content: A digest of every file's relative path, size and content.
        notes: What a person should know, one line each.
        places: What each split was read from, for people.
        root: The data's own folder: nothing outside of it is read.
        num_named: Files of images that rows name.
    """

    splits: dict[str, Any]
    content: str
    notes: tuple[str, ...] = ()
    places: dict[str, str] = {}  # noqa: RUF012  (never changed)
    root: Path | None = None
    num_named: int = 0


def load_local(path: Path, request: SourceRequest, memory: Path) -> Local:
    """Load files, a folder of files, a folder of images, or such a folder in a zip archive.

    Args:
        path: An existing file or folder, or a pattern of files (``train-{000..003}.tar``).
        request: The names of splits and columns.
        memory: Folder in which digests of files are kept.

    Raises:
        DataError: There is nothing usable, or something is unreadable.
    """
    try:
        if os.path.isdir(path):
            return _load_folder(path, request, memory)._replace(root=path.resolve())
        if is_zip(path):
            return _load_zip(path, request, memory)
        if request.dataset_config is not None:
            find_configuration(path, path, request.dataset_config)
        require_no_folders(request)
        root, files = _named_files(path)
        local = _read_files(path, root, _by_split(path, root, files), request, memory)
        return local._replace(root=root)
    except OSError as error:
        raise DataError([f"--dataset {path}: cannot be read ({error})"]) from error


def _load_zip(path: Path, request: SourceRequest, memory: Path) -> Local:
    """The folder in an archive; what is said of it names the archive in the folder's place."""
    folder = packed_folder(unpacked(path, memory).resolve())

    def named(lines: Iterable[str]) -> list[str]:
        return [line.replace(str(folder), str(path)) for line in lines]

    try:
        local = _load_folder(folder, request, memory)
    except DataError as error:
        raise DataError(named(error.problems)) from error
    whole = f"{folder.name}/"
    places = {s: path.name if place == whole else place for s, place in local.places.items()}
    return local._replace(root=folder, notes=tuple(named(local.notes)), places=places)


def require_no_folders(request: SourceRequest) -> None:
    """Refuse a flag that has no effect on data that is no folder of images.

    Raises:
        DataError: It is set.
    """
    if request.classes_are_folders:
        raise DataError(
            [f"--classes-are-folders: {request.dataset} is no folder of images here: drop it"]
        )


def _load_folder(path: Path, request: SourceRequest, memory: Path) -> Local:
    """Whatever a folder holds."""
    root = path.resolve()
    chosen = find_configuration(path, root, request.dataset_config)
    if chosen.files is not None:
        return _read_configuration(path, chosen, request, memory)
    found = scan(chosen.root)
    notes = [f"{path}: configuration {chosen.name} of its README.md"] if chosen.name else []
    notes += found.passed_over()
    files, images = _data_files(found.root), found.root.count
    if request.classes_are_folders:
        if not images:
            require_no_folders(request)
        files = []
    others = found.root.files(*TEXT_SUFFIXES, ".tar") if files else []
    if others:
        names = _first_names(found.root.path, others)
        notes.append(f"{path}: {names} not read; name one to use it: --dataset")
    # An archive beside the images that were unpacked from it is no data set.
    files = files or ([] if images else found.root.files(".tar"))
    if files:
        by_split = _by_split(path, chosen.root, files)
        local = _read_files(path, chosen.root, by_split, request, memory)
        notes += _images_beside(path, found.root, files, local)
    else:
        local = _read_images(path, found, request, memory)
    return local._replace(notes=(*notes, *local.notes))


def _images_beside(path: Path, root: FolderNode, files: list[Path], local: Local) -> list[str]:
    """A line about the images that lie beside files of rows, if there are any.

    Raises:
        DataError: They may as well be the data set: rows name few, and they fill several folders.
    """
    left = root.count - local.num_named
    if left <= 0:
        return []
    if 2 * local.num_named >= root.count or len(root.filled) < 2:
        return [f"{path}: left out {left} image(s) beside the data's files"]
    folder = Path(os.path.commonpath([file.parent for file in files]))
    place = (path / (folder if folder != root.path else files[0]).relative_to(root.path)).as_posix()
    names = ", ".join(list(root.filled)[:3]) + (" ..." if len(root.filled) > 3 else "")
    raise DataError(
        [
            f"--dataset {path}: {root.count} images in the folders {names}, and rows in "
            f"{_first_names(root.path, files)}: --classes-are-folders takes the images, "
            f"--dataset {place} the rows"
        ]
    )


def _read_images(path: Path, found: Scan, request: SourceRequest, memory: Path) -> Local:
    """A folder of images, with tables of their labels or without."""
    if found.problems:
        raise DataError(listed([f"--dataset {path}: {problem}" for problem in found.problems]))
    layout = find_layout(found.root, request)
    tables = find_tables(found.root)
    local = _read_layout(path, found.root, layout, tables, request, memory)
    others = [file for file in found.root.files(*TEXT_SUFFIXES) if file not in tables]
    names = _first_names(found.root.path, others)
    notes = [f"{path}: {names} not read; name a table to use it: --dataset"] if others else []
    return local._replace(notes=(*local.notes, *notes))


def _first_names(root: Path, files: list[Path]) -> str:
    names = ", ".join(file.relative_to(root).as_posix() for file in files[:5])
    return names + (f" and {len(files) - 5} more" if len(files) > 5 else "")


def _read_layout(
    path: Path,
    root: FolderNode,
    layout: Layout,
    tables: dict[Path, str | None],
    request: SourceRequest,
    memory: Path,
) -> Local:
    notes = [f"{path}: left out {what}" for what in layout.left_out]
    if request.classes_are_folders:
        names = ", ".join(file.relative_to(root.path).as_posix() for file in list(tables)[:5])
        notes += [f"{path}: {names} not read, as the folders are the classes"] if tables else []
        tables = {}
    labelled = read_labelled(root, layout, tables, request) if tables else None
    if labelled is not None:
        folder, more = labelled
        notes += more
    else:
        asked = (request.train_split or "train").partition("[")[0]
        training = matching(asked, layout.splits) or next(iter(layout.splits))
        folder = load_folder(root, layout, training, request)
        notes += inner_folders(layout)
        notes += [f"{path}: {file.name} names none of the images; not used" for file in tables]
    content = content_of(root.path, folder.files, memory)
    notes += [*root.not_read(), *root.no_images()]
    return Local(folder.splits, content, tuple(notes), folder.places)


def _read_configuration(
    path: Path, chosen: Configuration, request: SourceRequest, memory: Path
) -> Local:
    """The files that a README names for each split."""
    by_split = chosen.files or {}
    note = f"{path}: configuration {chosen.name} of its README.md"
    every = {file: split for split, files in by_split.items() for file in files}
    pictured = {split for file, split in every.items() if file.suffix.lower() in IMAGE_SUFFIXES}
    if not pictured:
        kept = {
            split: [file for file in files if file.suffix.lower() in READERS]
            for split, files in by_split.items()
        }
        local = _read_files(path, chosen.root, kept, request, memory)
        return local._replace(notes=(note, *local.notes))
    found = scan(chosen.root)
    if found.problems:
        raise DataError(listed([f"--dataset {path}: {problem}" for problem in found.problems]))
    root = _only(found.root, every.keys())
    parts = {split: _only(root, set(by_split[split])) for split in pictured}
    tables: dict[Path, str | None] = {file: every[file] for file in find_tables(root)}
    layout = Layout({split: (_unwrapped(part),) for split, part in parts.items()}, named=True)
    local = _read_layout(path, root, layout, tables, request, memory)
    return local._replace(notes=(note, *local.notes))


def _unwrapped(node: FolderNode) -> FolderNode:
    """The folder that holds the classes, where others hold nothing but it."""
    while len(node.folders) == 1 and not node.images:
        (inner,) = node.folders.values()
        if inner.images:
            break
        node = inner
    return node


def _only(node: FolderNode, files: Collection[Path]) -> FolderNode:
    """A folder as if it held these files alone."""
    kept = FolderNode(
        node.path,
        images=[file for file in node.images if file in files],
        others=[file for file in node.others if file in files],
    )
    for name, folder in node.folders.items():
        below = _only(folder, files)
        if below.folders or below.images or below.others:
            kept.folders[name] = below
    return kept


def _named_files(path: Path) -> tuple[Path, list[Path]]:
    """The folder and the files of a path or pattern of files."""
    if os.path.exists(path):
        return path.resolve().parent, [path.resolve()]
    files = [file.resolve() for file in expand_braces(str(path))]
    missing = [f"--dataset {path}: {f} is missing" for f in files if not f.is_file()]
    if missing:
        raise DataError(missing[:20])
    return Path(os.path.commonpath([file.parent for file in files])), files


def _data_files(root: FolderNode) -> list[Path]:
    """The files that hold rows; neither tables beside images nor the library's own caches."""
    kinds = (s for s in READERS if s not in (*TEXT_SUFFIXES, ".tar"))
    files = root.files(*kinds)
    return [file for file in files if not file.name.startswith(("metadata.", "cache-"))]


def _by_split(path: Path, root: Path, files: list[Path]) -> dict[str, list[Path]]:
    """The files of each split, by the names of folders and files; one file is ``train``."""
    if len(files) == 1:
        return {"train": files}
    by_split: dict[str | None, list[Path]] = {}
    paths = [file.relative_to(root).parts for file in files]
    for file, split in zip(files, splits_of_files(paths), strict=True):
        by_split.setdefault(split, []).append(file)
    if by_split.keys() == {None}:
        return {"train": files}
    if None in by_split:
        raise DataError(
            [
                f"--dataset {path}: {file} belongs to no split; let its name start with train, "
                "validation or test, or move it away"
                for file in by_split[None]
            ]
        )
    return {str(split): same for split, same in by_split.items()}


def _read_files(
    path: Path,
    root: Path,
    by_split: dict[str, list[Path]],
    request: SourceRequest,
    memory: Path,
) -> Local:
    files = [file for same in by_split.values() for file in same]
    suffix = common_suffix(path, files)
    rows = READERS[suffix](path, by_split, request)
    places = {name: _place(root, by_split[name]) for name in rows.splits}
    files = list(dict.fromkeys([*files, *rows.images]))
    content = content_of(root, files, memory)
    return Local(rows.splits, content, rows.notes, places, num_named=len(set(rows.images)))


def _place(root: Path, files: list[Path]) -> str:
    """A file, or how many lie where."""
    if len(files) == 1:
        return files[0].relative_to(root).as_posix()
    folders = {file.parent.relative_to(root).as_posix() for file in files}
    names = ", ".join(f"{name}/" for name in sorted(folders - {"."})[:5])
    return f"{len(files)} files" + (f" in {names}" if names else "")
