"""Which samples are trained on and which are evaluated."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vit_colossal.data.sources.chosen import RowNumbers
from vit_colossal.data.sources.request import EVAL_SPLITS, SourceRequest
from vit_colossal.data.sources.split_names import (
    kind_of_split,
    matching,
    names_only_a_split,
    split_of,
)
from vit_colossal.errors import DataError
from vit_colossal.plan.recipe import share_to_hold_out

#: A part of a split, as `datasets` writes it.
_SLICE = re.compile(r"(?P<split>\w+)\[(?P<start>\d*):(?P<stop>\d*)\]")


def parse_slice(name: str) -> tuple[str, int | None, int | None] | None:
    """Read ``train[:4500]`` as a split's name, its first row and the row after its last.

    Returns:
        The three, None standing for an end of the split; None when ``name`` is not of that form.
    """
    match = _SLICE.fullmatch(name)
    if match is None:
        return None
    start, stop = (int(match[side]) if match[side] else None for side in ("start", "stop"))
    return match["split"], start, stop


def rows_of_split(name: str, places: Sequence[int]) -> RowNumbers:
    """Rows by their numbers in the whole split.

    Args:
        name: A split, or a part of one such as ``train[100:200]``.
        places: Places in it.
    """
    part = parse_slice(name)
    if part is None or part[1] is None:
        return RowNumbers(part[0] if part else name, places)
    start = part[1]
    return RowNumbers(part[0], [start + place for place in places])


@dataclass(frozen=True)
class SplitChoice:
    """Which splits are used.

    Attributes:
        train: The training split.
        evaluation: The evaluation split; None is a held-out part of the training split.
        kept: Splits called test that are left for the end.
        unlabelled: Splits that cannot be evaluated on.
    """

    train: str
    evaluation: str | None
    kept: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()


def choose_training(request: SourceRequest, names: Collection[str]) -> str:
    """The training split.

    Args:
        request: What was asked for.
        names: The splits that there are.

    Raises:
        DataError: It does not exist, and perhaps the evaluation split neither.
    """
    found = ", ".join(names)
    train = matching(request.train_split or "train", names)
    problems = []
    if train is None:
        wanted = request.train_split or "train"
        problems.append(f"--train-split {wanted}: no such split, only {found}")
    if request.eval_split is not None and matching(request.eval_split, names) is None:
        problems.append(f"--eval-split {request.eval_split}: no such split, only {found}")
    if problems or train is None:
        raise DataError(problems)
    return train


def choose_splits(
    request: SourceRequest,
    names: Collection[str],
    has_labels: Callable[[str], bool] = lambda name: True,
    fixed: str | None = None,
) -> SplitChoice:
    """Choose the splits.

    Args:
        request: What was asked for.
        names: The splits that there are.
        has_labels: Whether a split has labels; asked of those that could be evaluated on.
        fixed: The split that a built-in data set is always evaluated on.

    Raises:
        DataError: They do not exist, or what was asked for has no labels.
    """
    train = choose_training(request, names)
    asked = matching(request.eval_split, names) if request.eval_split else fixed
    kept: list[str] = []
    unlabelled: list[str] = []
    evaluation = None if asked == train else asked
    if asked is None:
        ranks = {name: rank for name in names if (rank := _rank(name)) is not None}
        others = sorted(ranks.keys() - {train}, key=lambda name: (ranks[name], name))
        unlabelled = [name for name in others if not has_labels(name)]
        usable = [name for name in others if name not in unlabelled]
        kept = [n for n in usable if request.keep_test and kind_of_split(n) == "test"]
        usable = [name for name in usable if name not in kept]
        evaluation = next(iter(usable), None)
        same = [name for name in usable if ranks[name] == ranks[usable[0]]]
        if len(same) > 1:
            flags = " or ".join(f"--eval-split {name}" for name in same)
            raise DataError([f"several splits could be evaluated on: say {flags}"])
    elif evaluation is not None and not has_labels(evaluation):
        raise DataError(
            [
                f"--eval-split {request.eval_split}: it has no labels; --eval-split {train} holds "
                "out a share of the training images (--val-split)"
            ]
        )
    if evaluation is None and request.val_split is not None and not 0 < request.val_split < 1:
        raise DataError([f"--val-split {request.val_split}: must lie between 0 and 1"])
    return SplitChoice(train, evaluation, tuple(kept), tuple(unlabelled))


def may_lack_labels(split: str, columns: Collection[str], training: Collection[str]) -> bool:
    """Whether a split without the label column is unlabelled, and does not call it otherwise.

    Args:
        split: Its name.
        columns: Its columns.
        training: Those of the training split.
    """
    images_alone = len(columns) == 1
    return images_alone or kind_of_split(split) == "test" or set(columns) <= set(training)


def _rank(name: str) -> int | None:
    """The place in the order of preference; None is no split to evaluate on."""
    split = split_of(name) if names_only_a_split(name) else None
    return EVAL_SPLITS.index(split) if split in EVAL_SPLITS else None


def overview(
    choice: SplitChoice,
    request: SourceRequest,
    used: tuple[int, int],
    counts: Mapping[str, int | None],
    places: Mapping[str, str],
) -> tuple[str, ...]:
    """What was read as what, one line for each split.

    Args:
        choice: Which splits are used.
        request: What was asked for.
        used: How many images are trained on and evaluated.
        counts: Images of each split, where that is known.
        places: Where each split was read from, where that is known.
    """
    lines = []
    for name in sorted(counts, key=lambda name: (name != choice.train, name)):
        source = f" of {places[name]}" if name in places else ""
        parts = [f"{counts[name]} images{source}"] if counts[name] is not None else []
        if name == choice.train:
            parts.append(f"{used[0]} to train on")
            if choice.evaluation is None:
                share = f"--val-split {request.share:.3g}"
                parts.append(f"{used[1]} held out to evaluate on ({share})")
        elif name == choice.evaluation:
            parts.append(f"{used[1]} to evaluate on")
        elif name in choice.unlabelled:
            parts.append("without labels: not evaluated on; vit-colossal predict labels images")
        elif name in choice.kept:
            parts.append(f"kept for the end: vit-colossal eval RUN --eval-split {name}")
        else:
            parts.append("not used")
        lines.append(f"split {name}: {', '.join(parts)}")
    return tuple(lines)


def describe_split(request: SourceRequest, choice: SplitChoice) -> tuple[str, str]:
    """What the evaluation rows are called, and how they are chosen for the fingerprint."""
    if choice.evaluation is not None:
        return choice.evaluation, choice.evaluation
    name = f"{choice.train} ({request.share:.3g} held out)"
    return name, f"{request.val_split!r} {request.seed}"


def with_share(request: SourceRequest, images: int, labels: int) -> SourceRequest:
    """The request with a share to hold out, where none was named: one that fits the training split.

    Args:
        request: What was asked for.
        images: Of the training split.
        labels: Of the data set.
    """
    if request.val_split is not None or images < 1:
        return request
    return replace(request, val_split=share_to_hold_out(images, labels))


def hold_out(labels: np.ndarray, request: SourceRequest, split: str) -> tuple[list[int], list[int]]:
    """Hold out a share of the training rows for evaluation.

    Args:
        labels: Integer labels [N].
        request: The share, which is known by now, and the seed.
        split: Name of the training split, for messages.

    Returns:
        The kept and the held-out row numbers, each in ascending order.

    Raises:
        DataError: Nothing is left to train on.
    """
    count = max(1, round(request.share * len(labels)))
    if count >= len(labels):
        raise DataError(
            [
                f"--val-split {request.val_split}: leaves nothing of the {len(labels)} rows of "
                f"split {split!r} to train on"
            ]
        )
    return stratified_split(labels, count, request.seed)


def stratified_split(labels: np.ndarray, held_out: int, seed: int) -> tuple[list[int], list[int]]:
    """Hold out rows so that every label keeps its share, to within one row.

    The j-th of a label's n shuffled rows stands at quantile (j + 0.5) / n; the ``held_out`` rows
    with the smallest quantiles are held out.

    Args:
        labels: Integer labels [N].
        held_out: How many rows to hold out.
        seed: Chooses which.

    Returns:
        The kept and the held-out row numbers, each in ascending order.
    """
    # RandomState and not default_rng: NumPy promises that its stream never changes.
    random = np.random.RandomState(seed & 0xFFFFFFFF)
    quantile = np.empty(len(labels))
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        quantile[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    order = np.argsort(quantile, kind="stable")
    return np.sort(order[held_out:]).tolist(), np.sort(order[:held_out]).tolist()


def fingerprint(
    content: str,
    train_name: str,
    selection: str,
    columns: tuple[str, str],
    labels: tuple[str, ...],
    rows: tuple[int, int],
) -> str:
    """Hex SHA-256 of what decides which samples are trained on and evaluated, and as what.

    Args:
        content: Identifies the whole data set.
        train_name: The training split.
        selection: How the evaluation rows are chosen.
        columns: The image and the label column.
        labels: The label names.
        rows: How many rows are trained on and evaluated.
    """
    identity = json.dumps([content, train_name, selection, columns, labels, rows])
    return hashlib.sha256(identity.encode()).hexdigest()
