"""Which images a run is trained and evaluated on: ``data.json``, written before the first step.

A name and a path say where images lie; that they are the same ones only the fingerprint says.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.data.prepare import RunData
from vit_colossal.data.sources.split_names import kind_of_split
from vit_colossal.data.sources.webdataset import expand_braces, is_pattern
from vit_colossal.durable import write_durably
from vit_colossal.errors import ConfigError
from vit_colossal.plan import run_folder
from vit_colossal.rundir.finished import read_environment, read_run_config
from vit_colossal.text import json_object

_SHOWN = 5


class SplitRecord(BaseModel):
    """A split: its name, its images, and how many each label has."""

    model_config = ConfigDict(frozen=True)

    name: str
    images: int
    labels: dict[str, int]


class DataRecord(BaseModel):
    """The data of a run.

    Attributes:
        dataset: what ``--dataset`` said.
        path: where that was, absolute; None of what is not on this machine.
        image_column, label_column: the columns that were read.
        labels: label names, in the order of the outputs.
        eval_split: name of the evaluation split.
        train, evaluation: the splits, with the images that could not be decoded; None where an
            earlier version did not write them down.
        source: fingerprint of the splits as they were found.
        fingerprint: the same without the images that were left out.
    """

    model_config = ConfigDict(frozen=True)

    dataset: str
    path: str | None = None
    dataset_config: str | None = None
    dataset_revision: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    labels: tuple[str, ...]
    eval_split: str | None = None
    train: SplitRecord | None = None
    evaluation: SplitRecord | None = None
    source: str | None = None
    fingerprint: str

    @property
    def test_is_kept(self) -> bool:
        """Whether what is called test was left for the end; earlier versions took it unasked."""
        return self.eval_split is None or kind_of_split(self.eval_split) != "test"


def describe_data(config: TrainConfig, data: RunData) -> DataRecord:
    """The record of a run's data."""
    dataset = config.dataset or ""
    place = local_path(dataset)
    train, evaluation = (
        [*split.labels.tolist(), *(image.label for image in split.bad)]
        for split in (data.train, data.evaluation)
    )
    return DataRecord(
        dataset=dataset,
        path=None if place is None else str(place),
        dataset_config=config.dataset_config,
        dataset_revision=config.dataset_revision,
        image_column=data.columns[0],
        label_column=data.columns[1],
        labels=data.labels,
        eval_split=data.eval_split,
        train=split_record(config.train_split or "train", train, data.labels),
        evaluation=split_record(data.eval_split, evaluation, data.labels),
        source=data.source,
        fingerprint=data.fingerprint,
    )


def split_record(name: str, numbers: Any, labels: tuple[str, ...]) -> SplitRecord:
    """A split by the numbers of its labels, [N]."""
    values = np.asarray(numbers, dtype=np.int64)
    counts = np.bincount(values, minlength=len(labels)).tolist()
    return SplitRecord(name=name, images=len(values), labels=dict(zip(labels, counts, strict=True)))


def local_path(dataset: str) -> Path | None:
    """Where a data set or a pattern of its files lies on this machine, absolute; else None."""
    path = Path(dataset).expanduser()
    is_local = bool(dataset) and (os.path.exists(path) or is_pattern(dataset))
    return Path(os.path.abspath(path)) if is_local else None


def is_there(dataset: str) -> bool:
    """Whether something of that name lies on this machine; of a pattern, its first file."""
    path = Path(dataset).expanduser()
    return os.path.exists(path) or (is_pattern(dataset) and expand_braces(str(path))[0].is_file())


def write_data_record(run_dir: Path, record: DataRecord) -> None:
    """Write it into a run directory.

    Raises:
        OSError: it cannot be written.
    """
    write_durably(run_dir / run_folder.DATA, record.model_dump_json(indent=1) + "\n")


def has_data_record(run_dir: Path) -> bool:
    """Whether a run says which data it is of; all but those that were copied in part do."""
    names = (run_folder.DATA, run_folder.ENVIRONMENT)
    return any((run_dir / name).is_file() for name in names)


def read_data_record(run_dir: Path) -> DataRecord:
    """The data of a run; of one that an earlier version wrote, what environment.json says of it.

    Raises:
        ConfigError: the run says nothing of its data, or the file is damaged.
    """
    path = run_dir / run_folder.DATA
    try:
        return DataRecord.model_validate(json_object(path.read_bytes()))
    except FileNotFoundError:
        return _of_earlier_version(run_dir)
    except ValidationError as error:
        keys = (".".join(map(str, item["loc"])) or "the whole" for item in error.errors())
        raise ConfigError([f"{path}: damaged ({', '.join(keys)})"]) from None
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path}: unreadable ({str(error).splitlines()[0]})"]) from None


def _of_earlier_version(run_dir: Path) -> DataRecord:
    found, config = read_environment(run_dir), read_run_config(run_dir)
    return DataRecord(
        dataset=config.dataset or found.dataset,
        dataset_config=config.dataset_config,
        dataset_revision=config.dataset_revision,
        labels=found.labels,
        eval_split=found.eval_split,
        source=None if any(found.left_out_images.values()) else found.data_fingerprint,
        fingerprint=found.data_fingerprint,
    )


def data_differences(before: DataRecord, now: DataRecord) -> str:
    """How other data differ from a run's, in words: labels, and each split's images."""
    parts = []
    if set(before.labels) != set(now.labels):
        gone = [label for label in before.labels if label not in now.labels]
        new = [label for label in now.labels if label not in before.labels]
        parts += [f"no label {_listed(gone)}"] if gone else []
        parts += [f"labels {_listed(new)} are new"] if new else []
    elif before.labels != now.labels:
        parts.append("labels in another order")
    for what in ("train", "evaluation"):
        one, other = getattr(before, what), getattr(now, what)
        if one is not None and other is not None:
            parts.append(_split_difference("training" if what == "train" else what, one, other))
    alike = all(part.endswith("as before") for part in parts)
    if alike and parts:
        parts.append("but the content or the name of a file, or which are held out, is not")
    return ", ".join(parts) or "their counts then were not written down"


def _split_difference(what: str, before: SplitRecord, now: SplitRecord) -> str:
    moved = _moved(before.labels, now.labels)
    if before.images == now.images and not moved:
        return f"{now.images} {what} images as before"
    words = f"{what} images {before.images} -> {now.images}"
    return f"{words} ({moved})" if moved else words


def _moved(before: Mapping[str, int], now: Mapping[str, int]) -> str:
    """The labels whose counts differ."""
    names = [n for n in dict.fromkeys((*before, *now)) if before.get(n, 0) != now.get(n, 0)]
    shown = [f"{name!r} {before.get(name, 0)} -> {now.get(name, 0)}" for name in names[:_SHOWN]]
    more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join([*shown, *more])


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
