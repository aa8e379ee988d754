"""Folders of images: one folder per class, in the folder itself or in each split's."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vit_colossal.data.sources.layout import Layout, class_folder
from vit_colossal.data.sources.problems import listed
from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.scan import ARCHIVES, FolderNode
from vit_colossal.data.sources.split_names import names_a_part, parts_of_one
from vit_colossal.data.sources.tables import TEXT_SUFFIXES
from vit_colossal.errors import DataError
from vit_colossal.text import cell

if TYPE_CHECKING:
    import datasets

_Classes = dict[str, list[Path]]


class Folder(NamedTuple):
    """A folder of images.

    Attributes:
        splits: The rows of each split; without a label column where it has no classes.
        files: All images.
        places: Where each split's images lie, below the data set's folder.
    """

    splits: dict[str, datasets.Dataset]
    files: list[Path]
    places: dict[str, str]


def load_folder(root: FolderNode, layout: Layout, training: str, request: SourceRequest) -> Folder:
    """Find the images of every class; none is opened.

    Not through the ``imagefolder`` loader: it drops the labels of unevenly nested folders, and
    merges a class that only the validation folder has, both without a word.

    Args:
        root: The data set.
        layout: Its splits.
        training: The one that is trained on: its classes are those of all.
        request: How many classes there have to be, and whether the folders are these for certain.

    Raises:
        DataError: Images lie elsewhere, a class has none, there are too few, or their names are
            those of numbered parts.
    """
    problems: list[str] = []
    classes: dict[str, _Classes] = {}
    loose: dict[str, list[Path]] = {}
    for split, nodes in layout.splits.items():
        parts = [class_folder(node) if layout.named else node for node in nodes]
        if split != training and all(part.images and not part.filled for part in parts):
            loose[split] = [image for part in parts for image in part.images]
            continue
        found = classes_in(parts)
        classes[split] = {name: files for name, files in found.items() if files}
        for part in parts:
            problems += _problems(root, part, training=split == training, split=layout.named)
            if split == training and not layout.named and not request.classes_are_folders:
                problems += _numbered_parts(root, part)
    if not problems and len(classes[training]) < request.min_labels:
        problems = [_too_few(root, [*classes[training]], request.min_labels)]
    if problems:
        raise DataError(listed(problems))
    names = sorted(classes[training])
    places = {
        split: ", ".join(_place(root, node) for node in nodes)
        for split, nodes in layout.splits.items()
    }
    files = [file for part in classes.values() for same in part.values() for file in same]
    files += [file for images in loose.values() for file in images]
    splits = {split: _rows(found, names) for split, found in classes.items()}
    splits |= {split: unlabelled(images) for split, images in loose.items()}
    return Folder(splits, files, places)


def classes_in(parts: list[FolderNode]) -> _Classes:
    """The images of each folder in ``parts``, further folders included; some may have none."""
    found: _Classes = {}
    for part in parts:
        for name, folder in part.folders.items():
            found.setdefault(name, []).extend(folder.all_images())
    return found


def inner_folders(layout: Layout) -> list[str]:
    """A line about folders that the class folders have in common, as they could be classes too."""
    found = []
    for nodes in layout.splits.values():
        classes = [folder for node in nodes for folder in class_folder(node).filled.values()]
        inner = [folder.filled.keys() for folder in classes]
        common = sorted(set.intersection(*map(set, inner))) if len(inner) > 1 else []
        if len(common) > 1:
            names = ", ".join(folder.name for folder in classes[:5])
            found.append(f"classes are {names} ...; their folders {', '.join(common[:5])} are not")
    return found[:1]


def unlabelled(images: list[Path]) -> datasets.Dataset:
    """Rows of undecoded images and nothing else."""
    import datasets

    features = datasets.Features(image=datasets.Image())
    return datasets.Dataset.from_dict({"image": [str(i) for i in images]}, features=features)


def _place(root: FolderNode, node: FolderNode) -> str:
    place = node.path.relative_to(root.path).as_posix()
    return f"{root.path.name}/" if place == "." else f"{place}/"


def _problems(data: FolderNode, part: FolderNode, *, training: bool, split: bool) -> list[str]:
    root, loose = data.path, len(part.images)
    if loose or not part.filled:
        state = "no images"
        if loose:
            state = f"{loose} image(s) outside of a class folder ({cell(part.images[0].name)} ...)"
        others = part.not_read()
        packed = data.files(*ARCHIVES)
        return [
            f"--dataset {root}: {state} in {part.path}; expected one folder of images per class, "
            "or these inside train/ and validation/, or .parquet, .arrow, .csv, .jsonl or .tar "
            "files, or a metadata.csv beside the images"
            + (f"; if {part.name} is a class: --classes-are-folders" if split and loose else "")
            + _or_the_table(data)
            + (f"; or unpack {packed[0]} and name the folder" if packed else "")
            + (f" ({others[0]})" if others else "")
        ]
    empty = [folder for folder in part.folders.values() if not folder.count] if training else []
    problems = []
    for folder in empty:
        others = folder.not_read()
        advice = others[0].removeprefix(f"{folder.path}: ") if others else "fill or remove it"
        problems.append(f"--dataset {root}: no images in the class folder {folder.path}; {advice}")
    inner = part
    while len(inner.filled) == 1 and not inner.images:
        (inner,) = inner.filled.values()
    if training and inner is not part and len(inner.filled) > 1:
        names = ", ".join(list(inner.filled)[:5])
        place = inner.path.relative_to(part.path).as_posix()
        # Of splits, one alone would be read and the other forgotten.
        fix = f"move them up into {part.path}, in each split" if split else ""
        problems.append(
            f"--dataset {root}: {part.path} has one folder of images, {place}; if the "
            f"classes are {names} ...: {fix or f'--dataset {shlex.quote(str(inner.path))}'}"
        )
    return problems


def _numbered_parts(data: FolderNode, part: FolderNode) -> list[str]:
    """Two readings of folders that differ in digits alone: classes, or parts of one data set."""
    names = list(part.filled)
    if len(names) < 2 or not parts_of_one(names):
        return []
    common = set.intersection(*(set(folder.filled) for folder in part.filled.values()))
    inner = sorted(common) if len(common) > 1 and not parts_of_one(common) else []
    if not inner and not names_a_part(names[0]):
        return []
    counts = ", ".join(f"{name} {folder.count}" for name, folder in [*part.filled.items()][:10])
    if inner:
        first, second = (shlex.quote(name) for name in names[:2])
        parts = (
            f"parts that each hold the classes {', '.join(inner[:5])}; say --classes-are-folders, "
            f"or put the parts together, or choose two of them: --train-split {first} "
            f"--eval-split {second}"
        )
    else:
        parts = (
            "parts whose names say nothing of the labels; say --classes-are-folders, or label the "
            f"images in a metadata.csv{_or_the_table(data)}"
        )
    return [
        f"--dataset {data.path}: its folders can be read as {len(names)} classes ({counts} "
        f"images), or as numbered {parts}"
    ]


def _too_few(data: FolderNode, names: list[str], least: int) -> str:
    return (
        f"--dataset {data.path}: its folders make {len(names)} label(s), {cell(names[0])}; "
        f"classification needs {least}: one folder of images per class, or a metadata.csv beside "
        f"the images{_or_the_table(data)}"
    )


def _or_the_table(data: FolderNode) -> str:
    return "".join(f"; or name the table: --dataset {t}" for t in data.files(*TEXT_SUFFIXES)[:1])


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
