"""What the folders of images stand for: splits, classes, or both.

Names are read by ``split_names``; where they allow two readings, what lies in the folders decides,
and where that does not either, both readings are shown and nothing is guessed.
"""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass

from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.scan import FolderNode
from vit_colossal.data.sources.split_names import (
    matching,
    means_nothing,
    names_only_a_split,
    parts_of_one,
    read_name,
    siblings,
    split_of,
)
from vit_colossal.errors import DataError


@dataclass(frozen=True)
class Layout:
    """Folders by what they stand for.

    Attributes:
        splits: Each split's folders. Without any split's name, all is ``train``.
        named: Whether folders' names told the splits.
        left_out: What lies beside them, one text each.
    """

    splits: dict[str, tuple[FolderNode, ...]]
    named: bool = False
    left_out: tuple[str, ...] = ()


def find_layout(root: FolderNode, request: SourceRequest) -> Layout:
    """Find the folders of each split.

    A folder that is alone and whose name says nothing (``data/``, ``images/``, its parent's name)
    is passed through, as archives unpack into one.

    Args:
        root: The data set.
        request: Splits that were named, and whether the folders are classes for certain.

    Raises:
        DataError: There are two readings, or there is no training folder.
    """
    if request.classes_are_folders:
        return Layout({"train": (root,)})
    node = root
    while True:
        alone = _alone(node)
        if alone is not None and _is_container(node, alone, request):
            node = alone
            continue
        return _splits_in(node, request) or _splits_in_classes(node) or Layout({"train": (node,)})


def class_folder(node: FolderNode) -> FolderNode:
    """The folder below a split's that holds the classes: ``seg_train/seg_train``."""
    while (alone := _alone(node)) is not None and (
        means_nothing(alone.name)
        or alone.name == node.name
        or (split_of(alone.name) is not None and split_of(alone.name) == split_of(node.name))
    ):
        node = alone
    return node


def _alone(node: FolderNode) -> FolderNode | None:
    filled = list(node.filled.values())
    return filled[0] if len(filled) == 1 and not node.images else None


def _is_container(node: FolderNode, alone: FolderNode, request: SourceRequest) -> bool:
    """Whether a folder that is alone only wraps what is in it."""
    below: FolderNode | None = alone
    while below is not None and below.name not in _asked(request):
        inner = set(siblings(below.filled).values())
        if "train" in inner and (len(inner) > 1 or split_of(below.name) is None):
            return True
        below = _alone(below) if split_of(below.name) is None else None
    if names_only_a_split(alone.name) or alone.name in _asked(request):
        return False
    return bool(alone.filled) and (means_nothing(alone.name) or alone.name == node.name)


def _asked(request: SourceRequest) -> list[str]:
    """The names of splits that were asked for, without ``[:100]``."""
    return [name.partition("[")[0] for name in (request.train_split, request.eval_split) if name]


def _splits_in(node: FolderNode, request: SourceRequest) -> Layout | None:
    """The folders of ``node`` as splits, if they are some."""
    named = siblings(node.filled)
    # A split's folder may be empty, which is said later; a class's may not.
    named |= {n: str(split_of(n)) for n in node.folders if names_only_a_split(n)}
    if len(node.filled) == 1 and not node.images:
        named |= {n: "train" for n in node.filled if split_of(n) == "train"}
    asked = _asked(request)
    settled = request.train_split is not None and bool(asked) and asked[0] in node.folders
    if settled or "train" in named.values():
        named |= {name: name for name in asked if name in node.folders}
    others = [node.folders[name] for name in node.filled if name not in named]
    if request.train_split is None and "train" not in named.values():
        return _without_training(node, named, others)
    known = set(named.values())
    if request.train_split and "train" not in known and not matching(asked[0], known):
        return None
    if others and not (settled or _evident(node, named, others)):
        raise _two_readings(node, named, others)
    left_out = [f"{folder.path}/ ({folder.count} images)" for folder in others]
    if node.images:
        left_out.append(f"{len(node.images)} image(s) directly in {node.path}")
    return Layout(_grouped(node, named, asked), named=True, left_out=tuple(left_out))


def _without_training(
    node: FolderNode, named: dict[str, str], others: list[FolderNode]
) -> Layout | None:
    if named and not others and not node.images:
        found = ", ".join(named)
        raise DataError(
            [
                f"--dataset {node.path}: no folder 'train', only {found}; if these are the "
                "classes: --classes-are-folders"
            ]
        )
    if others and any(node.folders[name].count for name in named):
        raise _two_readings(node, named, others)
    words = {read_name(folder.name).split for folder in others}
    if "train" in words and None not in words and len(words) > 1:
        every = {folder.name: str(split_of(folder.name)) for folder in others}
        raise _two_readings(node, every, [])
    return None


def _evident(node: FolderNode, named: dict[str, str], others: list[FolderNode]) -> bool:
    """Whether the folders' contents say that the named ones are splits: they share classes."""
    training = [node.folders[name] for name, split in named.items() if split == "train"]
    classes = {name for folder in training for name in class_folder(folder).filled}
    further = [node.folders[name] for name, split in named.items() if split != "train"]
    if any(classes & class_folder(folder).filled.keys() for folder in further):
        return True
    return bool(classes) and all(
        classes & class_folder(folder).filled.keys() or (further and not folder.filled)
        for folder in others
    )


def _two_readings(node: FolderNode, named: dict[str, str], others: list[FolderNode]) -> DataError:
    counts = ", ".join(f"{name} {folder.count}" for name, folder in _first(node.filled))
    as_classes = f"{len(node.filled)} classes ({counts} images)"
    as_splits = ", ".join(
        f"{split} {node.folders[name].count} images of {name}/" for name, split in named.items()
    )
    if others:
        as_splits += f", and {len(others)} more folder(s)"
    training = [name for name, split in named.items() if split == "train"]
    settle = (
        " or ".join(f"--train-split {shlex.quote(name)}" for name in training[:3])
        if training
        else "move the training images into train/"
    )
    return DataError(
        [
            f"--dataset {node.path}: its folders can be read as {as_classes}, or as splits "
            f"({as_splits}); say --classes-are-folders, or for splits {settle}"
        ]
    )


def _first(filled: dict[str, FolderNode]) -> list[tuple[str, FolderNode]]:
    return list(filled.items())[:10]


def _grouped(
    node: FolderNode, named: dict[str, str], asked: list[str]
) -> dict[str, tuple[FolderNode, ...]]:
    """The folders by split; several of one split are its numbered parts, or go by their names."""
    grouped: dict[str, list[str]] = {}
    for name, split in named.items():
        grouped.setdefault(split, []).append(name)
    found: dict[str, tuple[FolderNode, ...]] = {}
    for split, names in grouped.items():
        if len(names) == 1 or parts_of_one(names):
            found[split] = tuple(node.folders[name] for name in sorted(names))
        elif split != "train" or set(names) & set(asked):
            found |= {name: (node.folders[name],) for name in names}
        else:
            counts = " and ".join(f"{n}/ ({node.folders[n].count} images)" for n in names)
            flags = " or ".join(f"--train-split {shlex.quote(name)}" for name in names)
            raise DataError(
                [f"--dataset {node.path}: {counts} both name the training split; say {flags}"]
            )
    return found


def _splits_in_classes(node: FolderNode) -> Layout | None:
    """Classes that each hold their own splits: ``cat/train``, ``cat/test``, ``dog/train`` ..."""
    inner = [(name, folder, siblings(folder.filled)) for name, folder in node.filled.items()]
    if len(inner) < 2 or any(
        folder.images or not _only_splits(folder, named) for _, folder, named in inner
    ):
        return None
    odd = [name for name, _, _ in inner if means_nothing(name)]
    if odd:
        raise DataError(
            [
                f"--dataset {node.path}: {', '.join(n for n, _, _ in inner[:5])} each hold "
                f"splits; name the one that holds the classes: --dataset {node.path / odd[0]}"
            ]
        )
    splits: dict[str, FolderNode] = {}
    for name, folder, named in inner:
        for child, split in named.items():
            # As if it were the other way round: a folder of the split that holds the classes.
            turned = splits.setdefault(split, FolderNode(node.path / "*" / child))
            label = turned.folders.setdefault(name, FolderNode(folder.path))
            label.folders[child] = folder.folders[child]
    others: Counter[str] = Counter()
    for _, folder, named in inner:
        others.update({n: o.count for n, o in folder.filled.items() if n not in named})
    left_out = tuple(f"{node.path / '*' / n}/ ({count} images)" for n, count in others.items())
    return Layout({split: (turned,) for split, turned in splits.items()}, True, left_out)


def _only_splits(folder: FolderNode, named: dict[str, str]) -> bool:
    """Whether a class's folders are splits: nothing but these, or several of them and more."""
    splits = set(named.values())
    return "train" in splits and (len(splits) > 1 or named.keys() == folder.filled.keys())
