"""Which samples are trained on and which are evaluated."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np

from vit_colossal.data.sources.request import EVAL_SPLITS, SourceRequest
from vit_colossal.errors import DataError

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


def choose_splits(request: SourceRequest, names: list[str]) -> tuple[str, str | None]:
    """Choose the splits.

    Args:
        request: What was asked for.
        names: The splits that there are.

    Returns:
        The training and the evaluation split; None is a held-out part of the training split.

    Raises:
        DataError: They do not exist.
    """
    found = ", ".join(names)
    train = request.train_split or "train"
    problems = []
    if train not in names:
        problems.append(f"--train-split {train}: no such split, only {found}")
    if request.eval_split is not None and request.eval_split not in names:
        problems.append(f"--eval-split {request.eval_split}: no such split, only {found}")
    others = [name for name in EVAL_SPLITS if name in names and name != train]
    evaluation = request.eval_split or next(iter(others), None)
    evaluation = None if evaluation == train else evaluation
    if evaluation is None and not 0 < request.val_split < 1:
        problems.append(f"--val-split {request.val_split}: must lie between 0 and 1")
    if problems:
        raise DataError(problems)
    return train, evaluation


def describe_split(
    request: SourceRequest, train_name: str, eval_name: str | None
) -> tuple[str, str]:
    """What the evaluation rows are called, and how they are chosen for the fingerprint."""
    if eval_name is not None:
        return eval_name, eval_name
    name = f"{train_name} ({request.val_split:.3g} held out)"
    return name, f"{request.val_split!r} {request.seed}"


def hold_out(labels: np.ndarray, request: SourceRequest, split: str) -> tuple[list[int], list[int]]:
    """Hold out a share of the training rows for evaluation.

    Args:
        labels: Integer labels [N].
        request: The share and the seed.
        split: Name of the training split, for messages.

    Returns:
        The kept and the held-out row numbers, each in ascending order.

    Raises:
        DataError: Nothing is left to train on.
    """
    count = max(1, round(request.val_split * len(labels)))
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
