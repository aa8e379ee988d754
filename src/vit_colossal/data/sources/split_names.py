"""Which split a name stands for: one rule for folders, Parquet, Arrow, shards and tables.

The words and their bounds are those of `datasets` (``datasets.data_files``): ``train`` in
``train-00000-of-00002`` but not in ``trainer``. Beyond it, case does not matter, and a word may be
grown together with what people add to it: ``trainset``, ``seg_train``, ``val_images``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

#: Each word, and the name of the split that it stands for.
_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "validate", "validating"), "validation"),
    **{name: name for name in ("valid", "val", "dev")},
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "holdout"), "test"),
}
#: What is added to a split's name without changing what it means.
FILLERS = frozenset(
    (
        *("set", "sets", "data", "dataset", "datasets", "seg", "split", "part", "shard", "v"),
        *("image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "pic"),
        *("pics", "folder", "dir", "file", "files", "jpg", "jpeg", "png"),
    )
)
#: What numbered pieces of one data set are called.
_PARTS = frozenset(("part", "fold", "shard", "split", "chunk", "batch"))
_BOUNDS = re.compile(r"[-._ 0-9()\[\]{}+&,]+")
_ADDED = "|".join(sorted(FILLERS, key=len, reverse=True))
_GROWN = re.compile(
    rf"(?:{_ADDED})?({'|'.join(sorted(_WORDS, key=len, reverse=True))})(?:{_ADDED})?"
)
#: What the parts of one file of a data set on the hub are called.
_SHARDED = re.compile(r"(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}.*")


class SplitName(NamedTuple):
    """A name, read.

    Attributes:
        split: What it stands for: train, validation, valid, val, dev or test; None is no split.
        rest: Its other words, in order, without those that mean nothing and without digits.
    """

    split: str | None
    rest: tuple[str, ...]


def read_name(name: str) -> SplitName:
    """Read the name of a folder, a file or a split.

    Args:
        name: Without the suffix of a file.

    Returns:
        A name that holds several splits' words stands for none (``train-test``); training and
        validation together, as published sets have them (``trainval``), are training.
    """
    text = name.strip().lower().replace("hold-out", "holdout").replace("hold_out", "holdout")
    found: dict[str, None] = {}
    rest = []
    for word in filter(None, _BOUNDS.split(text.replace("trainval", "train val"))):
        grown = _GROWN.fullmatch(word)
        if grown:
            found[_WORDS[grown[1]]] = None
        elif word not in FILLERS:
            rest.append(word)
    if "train" in found and len(found) == 2 and kind_of_split([*found][1]) == "validation":
        return SplitName("train", tuple(rest))
    return SplitName(next(iter(found)) if len(found) == 1 else None, tuple(rest))


def split_of(name: str) -> str | None:
    """The split that a name stands for; see :func:`read_name`."""
    return read_name(name).split


def kind_of_split(name: str) -> str | None:
    """``train``, ``validation`` or ``test`` for whatever a split is called; None is neither."""
    split = split_of(name)
    return "validation" if split in ("valid", "val", "dev") else split


def names_only_a_split(name: str) -> bool:
    """Whether a name says which split it is and nothing else: ``Train``, ``test_images``."""
    split, rest = read_name(name)
    return split is not None and not rest


def means_nothing(name: str) -> bool:
    """Whether a folder's name says nothing of what is in it: ``images``, ``data``."""
    return read_name(name) == SplitName(None, ())


def splits_of_files(paths: list[tuple[str, ...]]) -> list[str | None]:
    """The split of each file of a data set: folders before files, outer folders first.

    A folder that holds all of them only wraps them.

    Args:
        paths: The parts of each path below the data set's folder; the last is the file's name.
    """
    inside = paths
    while inside and len({path[:1] for path in inside}) == 1 and min(map(len, inside)) > 1:
        inner = {split_of(path[1]) for path in inside if len(path) > 2} - {None}
        # `test-data/train/...` beside `test-data/validation/...` is no test split.
        if split_of(inside[0][0]) is not None and not ("train" in inner and len(inner) > 1):
            break
        inside = [path[1:] for path in inside]
    return [
        next(filter(None, map(split_of, below[:-1])), None) or _split_of_file(path)
        for below, path in zip(inside, paths, strict=True)
    ]


def _split_of_file(path: tuple[str, ...]) -> str | None:
    """By the file's own name; the hub's have the split's, whatever it is, before their numbers."""
    sharded = _SHARDED.fullmatch(path[-1])
    if path[-2:-1] == ("data",) and sharded and not names_only_a_split(sharded["split"]):
        return sharded["split"]
    return split_of(path[-1].partition(".")[0])


def siblings(names: Iterable[str]) -> dict[str, str]:
    """The splits that folders beside each other stand for.

    A folder called ``test tube`` is a class: it is taken for a split only where another split's
    name has the same other words (``birds_train``, ``birds_test``), or no other words are there.

    Args:
        names: All names beside each other.

    Returns:
        The split of each name that stands for one.
    """
    read = {name: read_name(name) for name in names}
    shared = {
        rest
        for rest in {r.rest for r in read.values()}
        if len({r.split for r in read.values() if r.split and r.rest == rest}) > 1
    }
    return {n: r.split for n, r in read.items() if r.split and (not r.rest or r.rest in shared)}


def names_a_part(name: str) -> bool:
    """Whether a name is that of a piece and not of what it shows: ``images_001``, ``cats part 2``.

    Args:
        name: One of several that differ in digits alone.
    """
    words = {word for word in _BOUNDS.split(name.strip().lower()) if word}
    return bool(words) and (words <= FILLERS or not words.isdisjoint(_PARTS))


def parts_of_one(names: Iterable[str]) -> bool:
    """Whether names differ in digits and what bounds them alone: ``train_1``, ``train_2``."""
    return len({_BOUNDS.sub("", name.lower()) for name in names}) == 1


def matching(asked: str, names: Iterable[str]) -> str | None:
    """The split that is meant by what was asked for.

    Args:
        asked: A split's name.
        names: Those that there are.

    Returns:
        The same name; or else the only one that means the same (``Training`` for ``train``); or
        None.
    """
    names = list(names)
    if asked in names or not names_only_a_split(asked):
        return asked if asked in names else None
    for means in (split_of, kind_of_split):
        same = [n for n in names if names_only_a_split(n) and means(n) == means(asked)]
        if same:
            return same[0] if len(same) == 1 else None
    return None
