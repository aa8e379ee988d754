"""Where labelled images come from: the hub, a local folder, local files or the built-in digits."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_colossal.data.sources.chosen import ChosenData, RowNumbers
from vit_colossal.data.sources.columns import (
    checked,
    column_values,
    find_columns,
    flat,
    labels_of,
    names_beside,
    sampler,
)
from vit_colossal.data.sources.digits import load_digits
from vit_colossal.data.sources.hub_source import load_hub
from vit_colossal.data.sources.labels import Labels, has_labels, training_labels
from vit_colossal.data.sources.loaded import Loaded
from vit_colossal.data.sources.local import load_local, require_no_folders
from vit_colossal.data.sources.readers import READERS
from vit_colossal.data.sources.request import SourceRequest, default_cache_root
from vit_colossal.data.sources.split_by_column import divided
from vit_colossal.data.sources.split_names import matching
from vit_colossal.data.sources.splits import (
    choose_splits,
    choose_training,
    describe_split,
    fingerprint,
    hold_out,
    may_lack_labels,
    overview,
    parse_slice,
    rows_of_split,
    with_share,
)
from vit_colossal.data.sources.webdataset import is_pattern
from vit_colossal.errors import DataError

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

ALIASES = {"beans": "AI-Lab-Makerere/beans", "cifar10": "uoft-cs/cifar10"}


@dataclass(frozen=True, kw_only=True)
class ImageSource(ChosenData):
    """Rows that are not decoded yet.

    Attributes:
        train: Training rows with an ``Image`` and a ``ClassLabel`` column.
        evaluation: Evaluation rows with the same columns.
    """

    train: datasets.Dataset
    evaluation: datasets.Dataset


def open_source(request: SourceRequest) -> ImageSource:
    """Find the data set, its columns and its splits, and check its labels.

    Args:
        request: What was asked for.

    Returns:
        The training and evaluation rows; no image is decoded yet.

    Raises:
        DataError: The data set cannot be found or read, or cannot be used for classification.
    """
    return choose(load(request), request)


def choose(loaded: Loaded, request: SourceRequest) -> ImageSource:
    """Choose splits and columns of a data set that is not streamed, and check its labels.

    Args:
        loaded: The data set.
        request: What was asked for.

    Returns:
        The training and evaluation rows; no image is decoded yet.

    Raises:
        DataError: It cannot be used for classification.
    """
    loaded = divided(loaded, request.image_column, request.label_column)
    splits = {name: flat(rows) for name, rows in loaded.splits.items()}
    whole = {name: len(rows) for name, rows in splits.items()}
    splits |= _sliced(request, splits)
    train_name = choose_training(request, splits)
    rows = splits[train_name]
    image_column, label_column = find_columns(
        rows.features, request.image_column, request.label_column, sampler(rows)
    )
    labels = _labels(rows, label_column, train_name, request, whole=train_name in whole)
    labelled = partial(_has_labels, splits, train_name, label_column, labels)
    choice = choose_splits(request, splits, labelled, loaded.fixed)
    train, _ = checked(rows, train_name, image_column, label_column, labels)
    notes = [*loaded.notes, *labels.notes]
    notes += names_beside(rows.features, label_column) if labels.kind == "numbers" else ()
    if choice.evaluation is None:
        request = with_share(request, len(train), len(labels.names))
        ids = np.array(column_values(train, label_column))
        kept, held_out = hold_out(ids, request, train_name)
        train, evaluation = train.select(kept), train.select(held_out)
        eval_rows = rows_of_split(train_name, held_out)
    else:
        rows = splits[choice.evaluation]
        evaluation, more = checked(rows, choice.evaluation, image_column, label_column, labels)
        notes += more
        eval_rows = rows_of_split(choice.evaluation, range(len(evaluation)))
    train = _first_rows(train, request.max_train_samples, "--max-train-samples")
    evaluation = _first_rows(evaluation, request.max_eval_samples, "--max-eval-samples")
    name, selection = describe_split(request, choice)
    columns, used = (image_column, label_column), (len(train), len(evaluation))
    return ImageSource(
        name=loaded.name,
        train=train,
        evaluation=evaluation,
        image_column=image_column,
        label_column=label_column,
        labels=labels.names,
        eval_split=name,
        eval_rows=RowNumbers(eval_rows.split, eval_rows.numbers[: len(evaluation)]),
        held_out=request.share if choice.evaluation is None else 0.0,
        fingerprint=fingerprint(loaded.content, train_name, selection, columns, labels.names, used),
        root=loaded.root,
        notes=tuple(dict.fromkeys(notes)),
        overview=overview(choice, request, used, _counts(splits, whole), loaded.places),
    )


def _labels(
    rows: datasets.Dataset, column: str, split: str, request: SourceRequest, *, whole: bool
) -> Labels:
    """The training labels, checked; ``whole`` where the split was not cut."""
    found = labels_of(rows, column, split)
    return training_labels(found, column, split, whole=whole, least=request.min_labels)


def _counts(splits: dict[str, Any], whole: dict[str, int]) -> dict[str, int]:
    """Rows of the splits that are shown: of one that was cut, its parts."""
    cut = {name.partition("[")[0] for name in splits.keys() - whole.keys()}
    return {name: len(splits[name]) for name in splits if name not in cut}


def _has_labels(
    splits: dict[str, Any], train: str, column: str, training: Labels, name: str
) -> bool:
    """Whether any row has a label; a split of none (no column, null, -1) is for ``predict``."""
    rows = splits[name]
    if column not in rows.features:
        return not may_lack_labels(name, rows.features, splits[train].features)
    return has_labels(rows.features[column], column_values(rows, column), training.names)


def _sliced(request: SourceRequest, splits: dict[str, Any]) -> dict[str, Any]:
    """The parts of splits that were asked for as ``train[:4500]``, in the data set's own order."""
    found, problems = {}, []
    for flag, name in (
        ("--train-split", request.train_split),
        ("--eval-split", request.eval_split),
    ):
        part = parse_slice(name or "")
        if name is None or part is None:
            continue
        if (split := matching(part[0], splits)) is not None:
            whole = splits[split]
            rows = range(len(whole))[part[1] : part[2]]
            found[name] = whole.select(rows if rows else [])
            if len(whole) and not rows:
                problems.append(
                    f"{flag} {name} is empty: {part[0]!r} has {len(whole)} images, choose a part "
                    "of these or another split"
                )
    if problems:
        raise DataError(problems)
    return found


def _first_rows(dataset: datasets.Dataset, limit: int | None, flag: str) -> datasets.Dataset:
    if limit is not None and limit < 1:
        raise DataError([f"{flag} {limit}: must be at least 1"])
    return dataset if limit is None else dataset.select(range(min(limit, len(dataset))))


# --- Loading --------------------------------------------------------------------------------------


def missing_path(name: str) -> bool:
    """Whether ``name`` can only be meant as a path, and nothing is there."""
    path = Path(name).expanduser()
    is_file = path.suffix in READERS or path.suffix == ".zip"
    is_path = name[:1] in (".", "/", "~") or name.count("/") > 1 or is_file
    return not name or (is_path and not os.path.exists(path) and not is_pattern(name))


def load(request: SourceRequest) -> Loaded:
    """Find a data set by its name and read its table of contents.

    Args:
        request: What was asked for.

    Raises:
        DataError: It cannot be found or read.
    """
    _keep_logs_clean()
    name = request.dataset
    path = Path(name).expanduser()
    if name and (os.path.exists(path) or is_pattern(name)):  # unlike Path.exists it never raises
        if name in ALIASES or name == "digits":
            logger.info("--dataset %s: taking the local %s", name, path.resolve())
        local = load_local(path, request, request.cache_dir or default_cache_root())
        return Loaded(
            str(path), local.splits, local.content, local.notes, local.places, root=local.root
        )
    require_no_folders(request)
    if name == "digits":
        if request.dataset_config is not None:
            raise DataError(
                [f"--dataset-config {request.dataset_config}: digits has none: drop it"]
            )
        return load_digits()
    if missing_path(name):
        raise DataError([f"--dataset {name!r}: no such file or folder"])
    return load_hub(ALIASES.get(name, name), request)


def _keep_logs_clean() -> None:
    """No progress bars of `datasets` where the output is a file."""
    from datasets.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
