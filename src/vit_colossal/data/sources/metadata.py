"""Tables that label the images of a folder: ``metadata.csv``, ``labels.csv``, ``train.csv``.

The layout of the ``imagefolder`` builder of `datasets`, and that of competitions: a table above or
beside the images says what they show, and the folders' names say nothing, or the split.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_colossal.data.sources.columns import labels_of
from vit_colossal.data.sources.folders import Folder, classes_in, load_folder, unlabelled
from vit_colossal.data.sources.images import in_text, is_address, is_image_text
from vit_colossal.data.sources.label_values import plain
from vit_colossal.data.sources.labels import is_label
from vit_colossal.data.sources.layout import Layout, class_folder
from vit_colossal.data.sources.problems import listed
from vit_colossal.data.sources.repeated_images import in_several_splits
from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.scan import FolderNode
from vit_colossal.data.sources.split_by_column import rows_of_splits
from vit_colossal.data.sources.split_names import kind_of_split, read_name, splits_of_files
from vit_colossal.data.sources.tables import (
    TEXT_SUFFIXES,
    TrainingColumns,
    columns_of,
    is_called_label,
    read_tables,
)
from vit_colossal.errors import DataError

if TYPE_CHECKING:
    import datasets

#: What a table of labels is called, beside its split's name.
_WORDS = frozenset(("metadata", "labels", "label", "annotations", "annotation"))
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")  # trainLabels


def find_tables(root: FolderNode) -> dict[Path, str | None]:
    """The tables that are called as tables of labels are, and the split that each is of."""
    files = []
    for file in root.files(*TEXT_SUFFIXES, ".parquet"):
        split, rest = read_name(_HUMP.sub("_", file.stem))
        known = set(rest) <= _WORDS and bool(split or rest)
        if known and (file.suffix.lower() != ".parquet" or file.stem.lower() == "metadata"):
            files.append(file)
    parts = [file.relative_to(root.path).parts for file in files]
    named = [(*path[:-1], _HUMP.sub("_", path[-1])) for path in parts]
    return dict(zip(files, splits_of_files(named), strict=True))


def read_labelled(
    root: FolderNode, layout: Layout, tables: dict[Path, str | None], request: SourceRequest
) -> tuple[Folder, tuple[str, ...]] | None:
    """Label the images of a folder by its tables; none is opened.

    Args:
        root: The data set.
        layout: What its folders stand for.
        tables: What :func:`find_tables` found.
        request: The names of columns.

    Returns:
        The rows of each split, and lines that a person should know; None where no table names any
        of the images.

    Raises:
        DataError: A table cannot be read, names what is not there, or leaves images without a
            label; or folders and tables are two readings.
    """
    found = _Labelled(root, layout, request)
    used = {file: split for file, split in tables.items() if found.is_meant_by(file)}
    if not used:
        return None
    by_split: dict[str | None, list[Path]] = {}
    for file, split in used.items():
        by_split.setdefault(split, []).append(file)
    if None in by_split and len(by_split) > 1:
        names = ", ".join(file.relative_to(root.path).as_posix() for file in used)
        raise DataError(
            [f"--dataset {root.path}: {names} all label images; name one of them as --dataset"]
        )
    problems: list[str] = []
    for split in sorted(by_split, key=lambda split: split != "train"):
        try:
            if split is None:
                found.read_all(by_split[None])
            else:
                found.read_split(split, by_split[split])
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(listed(problems))
    found.add_other_splits()
    return found.finished([*used])


class _Labelled:
    """The rows of a folder's splits, as its tables are read one after the other."""

    def __init__(self, root: FolderNode, layout: Layout, request: SourceRequest) -> None:
        self.root, self.layout, self.request = root, layout, request
        self.images = {
            split: [image for node in nodes for image in node.all_images()]
            for split, nodes in layout.splits.items()
        }
        self.all_images = root.all_images()
        self.names = _names(self.all_images, root.path)
        self.splits: dict[str, Any] = {}
        self.places: dict[str, str] = {}
        self.listed: set[Path] = set()
        self.notes: list[str] = []
        self.columns = request.image_column, request.label_column
        self.known: frozenset[str] = frozenset()

    def is_meant_by(self, file: Path) -> bool:
        """Whether a table is about images here: it names one, or a column holds images or paths."""
        try:
            columns = columns_of(file)
        except DataError as error:
            raise DataError([*error.problems, *self._or_folders()]) from None
        for column in columns.values():
            texts = {text.strip() for text in map(in_text, column) if isinstance(text, str)}
            if any(t in self.names or (is_image_text(t) and not is_address(t)) for t in texts):
                return True
        self.notes.append(f"{file}: names none of the images here; not used")
        return False

    def read_split(self, split: str, files: list[Path]) -> None:
        """Read the tables of one split."""
        scope = self.images.get(split) or self.all_images
        names = _names(scope, self.root.path)
        if split != "train" and not self._has_labels(split, files):
            self.splits[split] = unlabelled(_named_in(files, names) or scope)
        else:
            self.splits[split] = self._read(files, names, {})
        self.places[split] = self._places(files)
        by_folder = all(read_name(file.stem).split is None for file in files)
        unlisted = sorted(set(scope) - self.listed) if split in self.images else []
        labelled = len(self.splits[split].column_names) > 1
        if unlisted and by_folder and labelled:
            raise self._incomplete(files, len(scope), unlisted)

    def read_all(self, files: list[Path]) -> None:
        """Read tables of all images: their splits are those of the folders."""
        of_image = {image: split for split, same in self.images.items() for image in same}
        rows = self._read(files, self.names, of_image if self.layout.named else {})
        splits = [of_image.get(path, "train") if path else "train" for path in _paths(rows)]
        self.splits |= rows_of_splits(rows, splits)
        self.places |= dict.fromkeys(self.splits, self._places(files))
        covered = [i for split in set(splits) & self.images.keys() for i in self.images[split]]
        scope = covered if self.layout.named else self.all_images
        unlisted = sorted(set(scope) - self.listed)
        if unlisted:
            raise self._incomplete(files, len(scope), unlisted)

    def add_other_splits(self) -> None:
        """Folders of splits that no table speaks of: with classes, where training has some."""
        missing = self.images.keys() - self.splits.keys() if self.layout.named else set()
        if "train" in missing:
            folder = load_folder(self.root, self.layout, "train", self.request)
            for split, rows in self.splits.items():
                names = dict(zip(rows.column_names, ("image", "label"), strict=False))
                self.splits[split] = rows.rename_columns(names)
            self.splits |= {split: folder.splits[split] for split in missing}
            self.places |= {split: folder.places[split] for split in missing}
            return
        for split in missing:
            self.splits[split] = unlabelled(self.images[split])
            self.places[split] = ", ".join(f"{n.name}/" for n in self.layout.splits[split])

    def finished(self, tables: list[Path]) -> tuple[Folder, tuple[str, ...]]:
        """All rows, and a line about images that are in none."""
        own = {split: [path for path in _paths(r) if path] for split, r in self.splits.items()}
        used = {path for paths in own.values() for path in paths}
        self.notes += in_several_splits(own)
        rest = set(self.all_images) - used
        if rest:
            self.notes.append(f"{len(rest)} image(s) are in no table, and left out")
        folder = Folder(self.splits, [*tables, *sorted(used)], self.places)
        return folder, tuple(dict.fromkeys(self.notes))

    def _read(
        self, files: list[Path], names: Mapping[str, Path], folders: Mapping[Path, str]
    ) -> datasets.Dataset:
        try:
            rows, images, notes, columns = read_tables(files, *self.columns, names, folders)
        except DataError as error:
            raise DataError([*error.problems, *self._or_folders()]) from None
        image_column, label_column, *others = rows.column_names
        if others and self.layout.named:
            unused = (f"column {c!r} is not used, as the folders name the splits" for c in others)
            notes = (*notes, *unused)
            rows = rows.remove_columns(others)
        self.columns = image_column, label_column
        self.known = self.known or frozenset(columns)
        self.notes += notes
        self.listed |= set(images)
        classes = self._classes()
        classes = classes if classes.keys() & set(images) else {}
        named = self.request.label_column is not None or is_called_label(label_column)
        if classes and not named:
            labels = [str(plain(label)) for label in rows[:][label_column]]
            if [classes.get(path) if path else None for path in _paths(rows)] != labels:
                raise DataError(
                    [
                        f"--dataset {self.root.path}: {self._places(files)} has "
                        f"{len(set(labels))} values in column {label_column!r}; to take them as "
                        f"labels: --label-column {label_column}",
                        *self._or_folders(),
                    ]
                )
        return rows

    def _has_labels(self, split: str, files: list[Path]) -> bool:
        """Whether tables have a label, in the column of training or in one that is called so.

        Columns that training does not know may be labels; what they hold is said elsewhere.
        """
        training: tuple[str, ...] = ()
        if self.columns[1] is not None and "train" in self.splits:
            training = labels_of(self.splits["train"], self.columns[1], "train").names
        tables = [columns_of(file) for file in files]
        if self.known and kind_of_split(split) != "test":
            columns = TrainingColumns(str(self.columns[1]), self.known)
            if any(columns.label not in t and not columns.label_is_missing(t) for t in tables):
                return True
        return any(
            is_label(value, training)
            for table in tables
            for name, values in table.items()
            if (is_called_label(name) if self.columns[1] is None else name == self.columns[1])
            for value in values
        )

    def _classes(self) -> dict[Path, str]:
        """The class of each training image, if the folders could be the classes as well."""
        nodes = self.layout.splits.get("train", ())
        parts = [class_folder(node) if self.layout.named else node for node in nodes]
        found = classes_in(parts)
        if len(found) < 2 or any(part.images for part in parts):
            return {}
        return {image: name for name, images in found.items() for image in images}

    def _or_folders(self) -> list[str]:
        """The other reading, where there is one."""
        names = sorted(set(self._classes().values()))
        if names and self.layout.named:  # the flag would make classes of the splits
            return [
                f"--dataset {self.root.path}: to take the {len(names)} folders in its splits "
                f"({', '.join(names[:5])} ...) as the labels instead, move the table out of it"
            ]
        return [
            f"--dataset {self.root.path}: to take its {len(names)} folders "
            f"({', '.join(names[:5])} ...) as the labels instead: --classes-are-folders"
            for _ in names[:1]
        ]

    def _places(self, files: list[Path]) -> str:
        return ", ".join(file.relative_to(self.root.path).as_posix() for file in files[:5])

    def _incomplete(self, files: list[Path], total: int, unlisted: list[Path]) -> DataError:
        names = ", ".join(file.relative_to(self.root.path).as_posix() for file in unlisted[:3])
        return DataError(
            [
                f"--dataset {self.root.path}: {self._places(files)} says nothing of "
                f"{len(unlisted)} of the {total} images ({names} ...): add them, remove them, or "
                f"name the table itself to use only what it lists: --dataset {files[0]}"
            ]
        )


def _paths(rows: datasets.Dataset) -> list[Path | None]:
    """The file of each row's image, unless the table holds the image itself; none is opened."""
    import datasets

    column = rows.column_names[0]
    undecoded = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return [Path(image["path"]) if image["path"] else None for image in undecoded[:][column]]


def _names(images: Iterable[Path], root: Path) -> dict[str, Path]:
    """Images by path below the root, name, and name without suffix; without what is not unique."""
    found: dict[str, Path | None] = {}
    for image in images:
        below = image.relative_to(root)
        within = root.name / below  # as the archive's own folder has it
        for path in (below, within, Path(image.name)):
            for name in (path.as_posix(), path.with_suffix("").as_posix()):
                found[name] = image if found.get(name, image) == image else None
    return {name: image for name, image in found.items() if image is not None}


def _named_in(files: list[Path], names: Mapping[str, Path]) -> list[Path]:
    """The images that unlabelled tables name, in their order."""
    texts = [v for f in files for c in columns_of(f).values() for v in c if isinstance(v, str)]
    return list(dict.fromkeys(names[t.strip()] for t in texts if t.strip() in names))
