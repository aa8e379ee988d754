"""Where labelled images come from: the hub, a local folder, local files or the built-in digits."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_colossal.data.sources.columns import (
    checked,
    column_values,
    find_columns,
    flat,
    image_columns,
    labels_of,
    sampler,
    whole_number_or_text,
)
from vit_colossal.data.sources.image_files import refuse_foreign
from vit_colossal.data.sources.labels import training_labels
from vit_colossal.data.sources.local import READERS, load_local
from vit_colossal.data.sources.request import SourceRequest, default_cache_root
from vit_colossal.data.sources.split_by_column import divided
from vit_colossal.data.sources.splits import (
    choose_splits,
    describe_split,
    fingerprint,
    hold_out,
    parse_slice,
    stratified_split,
)
from vit_colossal.data.sources.webdataset import is_pattern
from vit_colossal.errors import DataError
from vit_colossal.hub import explain, reaching_hub
from vit_colossal.redaction import hide_secrets

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

ALIASES = {"beans": "AI-Lab-Makerere/beans", "cifar10": "uoft-cs/cifar10"}


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
        notes: What a person should know, one line each.
    """

    name: str
    train: datasets.Dataset
    evaluation: datasets.Dataset
    image_column: str
    label_column: str
    labels: tuple[str, ...]
    eval_split: str
    fingerprint: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """A data set with all of its splits, nothing chosen or checked yet.

    Attributes:
        name: What was asked for, aliases resolved.
        splits: By name; ``IterableDataset`` if they are streamed, else ``Dataset``.
        content: Identifies the content.
        notes: What a person should know, one line each.
        remote: Whether it is on the hub, so that a stream fetches its images from there.
    """

    name: str
    splits: dict[str, Any]
    content: str
    notes: tuple[str, ...] = ()
    remote: bool = False

    @property
    def streamed(self) -> bool:
        """Whether rows can only be read in their order."""
        return any(not hasattr(rows, "select") for rows in self.splits.values())


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
    splits = {name: flat(rows) for name, rows in loaded.splits.items()}
    splits, notes = divided(splits, request.image_column, request.label_column)
    splits |= _sliced(request, splits)
    train_name, eval_name = choose_splits(request, list(splits))
    rows = splits[train_name]
    image_column, label_column = find_columns(
        rows.features, request.image_column, request.label_column, sampler(rows)
    )
    whole = train_name in loaded.splits
    labels = training_labels(
        labels_of(rows, label_column, train_name),
        label_column,
        train_name,
        whole=whole,
        least=request.min_labels,
    )
    train, _ = checked(rows, train_name, image_column, label_column, labels)
    notes += labels.notes
    if eval_name is None:
        ids = np.array(column_values(train, label_column))
        kept, held_out = hold_out(ids, request, train_name)
        train, evaluation = train.select(kept), train.select(held_out)
    else:
        evaluation, more = checked(splits[eval_name], eval_name, image_column, label_column, labels)
        notes += tuple(note for note in more if note not in notes)
    train = _first_rows(train, request.max_train_samples, "--max-train-samples")
    evaluation = _first_rows(evaluation, request.max_eval_samples, "--max-eval-samples")
    name, selection = describe_split(request, train_name, eval_name)
    columns, counts = (image_column, label_column), (len(train), len(evaluation))
    return ImageSource(
        name=loaded.name,
        train=train,
        evaluation=evaluation,
        image_column=image_column,
        label_column=label_column,
        labels=labels.names,
        eval_split=name,
        fingerprint=fingerprint(
            loaded.content, train_name, selection, columns, labels.names, counts
        ),
        notes=(*loaded.notes, *notes),
    )


def _sliced(request: SourceRequest, splits: dict[str, Any]) -> dict[str, Any]:
    """The parts of splits that were asked for as ``train[:4500]``, in the data set's own order."""
    found = {}
    for name in filter(None, (request.train_split, request.eval_split)):
        part = parse_slice(name)
        if part is not None and part[0] in splits:
            whole = splits[part[0]]
            rows = range(len(whole))[part[1] : part[2]]
            found[name] = whole.select(rows if rows else [])
    return found


def _first_rows(dataset: datasets.Dataset, limit: int | None, flag: str) -> datasets.Dataset:
    if limit is not None and limit < 1:
        raise DataError([f"{flag} {limit}: must be at least 1"])
    return dataset if limit is None else dataset.select(range(min(limit, len(dataset))))


# --- Loading --------------------------------------------------------------------------------------


def missing_path(name: str) -> bool:
    """Whether ``name`` can only be meant as a path, and nothing is there."""
    path = Path(name).expanduser()
    is_path = name[:1] in (".", "/", "~") or name.count("/") > 1 or path.suffix in READERS
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
        return Loaded(str(path), *local)
    if name == "digits":
        return _load_digits()
    if missing_path(name):
        raise DataError([f"--dataset {name!r}: no such file or folder"])
    return _load_hub(ALIASES.get(name, name), request)


def _load_digits() -> Loaded:
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
    return Loaded("digits", splits, f"{content} {test}")


def _load_hub(name: str, request: SourceRequest) -> Loaded:
    import datasets

    _never_unpickle()
    wanted = f"--dataset {name}"
    wanted += f" --dataset-config {request.dataset_config}" if request.dataset_config else ""
    wanted += f" --dataset-revision {request.revision}" if request.revision else ""
    try:
        with reaching_hub() as online:
            # As `load_dataset` does; only the builder knows which commit a branch stood at.
            builder = datasets.load_dataset_builder(
                name, request.dataset_config, revision=request.revision
            )
            if request.streaming:
                splits = dict(builder.as_streaming_dataset())
            else:
                builder.download_and_prepare()
                splits = dict(builder.as_dataset())
        # Offline the library takes what it fetched last, of whatever revision.
        if request.revision not in (None, builder.hash) and not online:
            raise DataError(
                [
                    f"{wanted}: without the hub only a commit can be found again, and the cache "
                    f"holds {builder.hash}: name that, or connect once"
                ]
            )
    except DataError:
        raise
    except Exception as error:  # the library raises a dozen unrelated types
        problem = f"{wanted}: cannot be fetched from the hub: {explain(error)}"
        raise DataError([hide_secrets(problem)]) from error
    content = json.dumps([name, builder.config.name, builder.hash])
    for split, rows in splits.items() if not request.streaming else ():
        for column in image_columns(rows.features, sampler(rows)):
            refuse_foreign(rows, column, split)
    return Loaded(name, splits, content, remote=True)


def _never_unpickle() -> None:
    """Only text and JSON is decoded in a WebDataset from the hub; the rest stays bytes.

    The library hands members called ``.pth`` to ``torch.load``, which on torch 2.5 runs code even
    with ``weights_only`` (CVE-2025-32434). Labels are read as in local shards: it takes ``.cls``
    for a number, whatever it holds, and leaves the line's end in ``.txt``.
    """
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    for suffix in WebDataset.DECODERS.keys() - {"cls", "cls2", "id", "index", "json", "txt"}:
        del WebDataset.DECODERS[suffix]
    WebDataset.DECODERS |= {"cls": whole_number_or_text, "txt": lambda x: x.decode().strip()}


def _keep_logs_clean() -> None:
    """No progress bars of `datasets` where the output is a file."""
    from datasets.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
