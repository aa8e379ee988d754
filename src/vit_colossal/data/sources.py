"""Where labelled images come from: the hub, a local folder, local files or the built-in digits."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vit_colossal.data.columns import checked, column_values, find_columns, label_names
from vit_colossal.data.local import EVAL_SPLITS, TABLE_SUFFIXES, load_local
from vit_colossal.errors import DataError

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

#: A part of a split, as `datasets` writes it.
_SLICE = re.compile(r"(?P<split>\w+)\[(?P<start>\d*):(?P<stop>\d*)\]")
ALIASES = {"beans": "AI-Lab-Makerere/beans", "cifar10": "uoft-cs/cifar10"}


@dataclass(frozen=True)
class SourceRequest:
    """What was asked for; the fields are named after the flags.

    Attributes:
        dataset: An existing local path, ``digits``, an alias, or a name on the hub; in this order.
        image_column: Column of the images; None finds the only one.
        label_column: Column of the labels; None finds the only one.
        train_split: Split to train on; None is ``train``.
        eval_split: Split to evaluate on; None takes the first of ``validation``, ``valid``,
            ``val``, ``dev`` and ``test``. Naming the training split, or having none of these,
            holds out ``val_split`` of the training split.
        val_split: Share (0 to 1) of the training split that is held out, stratified by label.
        seed: Chooses the held-out samples.
        dataset_config: Configuration (subset) of a hub data set.
        revision: Branch, tag or commit of a hub data set.
        max_train_samples: Keep the first so many training rows, in the order of the source
            (a folder is ordered by class).
        max_eval_samples: The same for the evaluation rows.
    """

    dataset: str
    image_column: str | None = None
    label_column: str | None = None
    train_split: str | None = None
    eval_split: str | None = None
    val_split: float = 0.1
    seed: int = 42
    dataset_config: str | None = None
    revision: str | None = None
    max_train_samples: int | None = None
    max_eval_samples: int | None = None


@dataclass(frozen=True)
class ImageSource:
    """Two splits of labelled images, checked.

    Attributes:
        name: What was asked for, aliases resolved.
        train: Training rows with an ``Image`` and a ``ClassLabel`` column.
        evaluation: Evaluation rows with the same columns.
        image_column: Name of the image column.
        label_column: Name of the label column; its values index ``labels``.
        labels: Label names.
        eval_split: Name of the evaluation split, for reports.
        fingerprint: Hex SHA-256 of what both splits contain: equal for equal data on any machine.
    """

    name: str
    train: datasets.Dataset
    evaluation: datasets.Dataset
    image_column: str
    label_column: str
    labels: tuple[str, ...]
    eval_split: str
    fingerprint: str


def open_source(request: SourceRequest) -> ImageSource:
    """Find the data set, its columns and its splits, and check its labels.

    Args:
        request: What was asked for.

    Returns:
        The training and evaluation rows; no image is decoded yet.

    Raises:
        DataError: The data set cannot be found or read, or cannot be used for classification.
    """
    _keep_logs_clean()
    name, splits, content = _load(request)
    splits = splits | _sliced(request, splits)
    train_name, eval_name = _choose_splits(request, list(splits))
    image_column, label_column = find_columns(
        splits[train_name], request.image_column, request.label_column
    )
    labels = label_names(splits[train_name], label_column)
    train = checked(splits[train_name], train_name, image_column, label_column, labels)
    if eval_name is None:
        selection = f"{request.val_split!r} {request.seed}"
        eval_name = f"{train_name} ({request.val_split:.3g} held out)"
        kept, held_out = _hold_out(train, label_column, request, train_name)
        train, evaluation = train.select(kept), train.select(held_out)
    else:
        selection = eval_name
        evaluation = checked(splits[eval_name], eval_name, image_column, label_column, labels)
    train = _first_rows(train, request.max_train_samples, "--max-train-samples")
    evaluation = _first_rows(evaluation, request.max_eval_samples, "--max-eval-samples")
    columns = [image_column, label_column]
    rows = [len(train), len(evaluation)]
    identity = json.dumps([content, train_name, selection, columns, labels, rows])
    return ImageSource(
        name=name,
        train=train,
        evaluation=evaluation,
        image_column=image_column,
        label_column=label_column,
        labels=labels,
        eval_split=eval_name,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
    )


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


# --- Loading: name, splits by name, and a string that identifies the content ----------------------

_Loaded = tuple[str, "dict[str, datasets.Dataset]", str]


def missing_path(name: str) -> bool:
    """Whether ``name`` can only be meant as a path, and nothing is there."""
    path = Path(name).expanduser()
    is_path = name[:1] in (".", "/", "~") or name.count("/") > 1 or path.suffix in TABLE_SUFFIXES
    return not name or (is_path and not os.path.exists(path))


def _load(request: SourceRequest) -> _Loaded:
    name = request.dataset
    path = Path(name).expanduser()
    if name and os.path.exists(path):  # unlike Path.exists it never raises
        if name in ALIASES or name == "digits":
            logger.info("--dataset %s: taking the local %s", name, path.resolve())
        # A folder is looked for under the name of the whole split, not of a part of it.
        train, evaluation = (
            name and name.partition("[")[0] for name in (request.train_split, request.eval_split)
        )
        splits, content = load_local(path, train or "train", evaluation)
        return str(path), splits, content
    if name == "digits":
        return _load_digits()
    if missing_path(name):
        raise DataError([f"--dataset {name!r}: no such file or folder"])
    return _load_hub(ALIASES.get(name, name), request)


def _load_digits() -> _Loaded:
    """scikit-learn's copy of the UCI handwritten digits: 1,797 images of 8 x 8, values 0 to 16."""
    import datasets
    from PIL import Image
    from sklearn.datasets import load_digits

    values, targets = load_digits(return_X_y=True)
    pixels = np.round(values.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    targets = targets.astype(np.int64)
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=[str(d) for d in range(10)])
    )
    rows = {"image": [Image.fromarray(image) for image in pixels], "label": targets}
    everything = datasets.Dataset.from_dict(rows, features=features)
    # The seed is fixed, not the request's: accuracies of any two runs are on the same images.
    train, test = stratified_split(targets, held_out=360, seed=0)
    splits = {"train": everything.select(train), "test": everything.select(test)}
    content = hashlib.sha256(pixels.tobytes() + targets.astype("<i8").tobytes()).hexdigest()
    return "digits", splits, f"{content} {test}"


def _load_hub(name: str, request: SourceRequest) -> _Loaded:
    import datasets
    from huggingface_hub import get_token

    try:
        # What `load_dataset` does; only the builder knows which commit a branch stood at.
        builder = datasets.load_dataset_builder(
            name, request.dataset_config, revision=request.revision
        )
        builder.download_and_prepare()
        splits = dict(builder.as_dataset())
    except Exception as error:  # the library raises a dozen unrelated types
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        wanted = f"--dataset {name}"
        wanted += f" --dataset-config {request.dataset_config}" if request.dataset_config else ""
        wanted += f" --revision {request.revision}" if request.revision else ""
        problem = (
            f"{wanted}: cannot be fetched from the hub ({type(error).__name__}: {reason}); check "
            "the name and the network, set HF_TOKEN if it is private or gated, or pass a local "
            "folder"
        )
        token = get_token()
        raise DataError([problem.replace(token, "***") if token else problem]) from error
    content = json.dumps([name, builder.config.name, builder.hash])
    return name, splits, content


# --- Choosing: splits, columns, labels ------------------------------------------------------------


def _keep_logs_clean() -> None:
    """No progress bars of `datasets` where the output is a file."""
    from datasets.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()


def _sliced(
    request: SourceRequest, splits: dict[str, datasets.Dataset]
) -> dict[str, datasets.Dataset]:
    """The parts of splits that were asked for as ``train[:4500]``, in the data set's own order."""
    found = {}
    for name in filter(None, (request.train_split, request.eval_split)):
        match = _SLICE.fullmatch(name)
        if match and match["split"] in splits:
            whole = splits[match["split"]]
            start, stop = (int(match[side]) if match[side] else None for side in ("start", "stop"))
            found[name] = whole.select(range(len(whole))[start:stop])
    return found


def _choose_splits(request: SourceRequest, names: list[str]) -> tuple[str, str | None]:
    """The training and the evaluation split; None is a held-out part of the training split."""
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


def _hold_out(
    dataset: datasets.Dataset, label_column: str, request: SourceRequest, split: str
) -> tuple[list[int], list[int]]:
    labels = np.array(column_values(dataset, label_column))
    count = max(1, round(request.val_split * len(labels)))
    if count >= len(labels):
        raise DataError(
            [
                f"--val-split {request.val_split}: leaves nothing of the {len(labels)} rows of "
                f"split {split!r} to train on"
            ]
        )
    return stratified_split(labels, count, request.seed)


def _first_rows(dataset: datasets.Dataset, limit: int | None, flag: str) -> datasets.Dataset:
    if limit is not None and limit < 1:
        raise DataError([f"{flag} {limit}: must be at least 1"])
    return dataset if limit is None else dataset.select(range(min(limit, len(dataset))))
