"""The data that a run was evaluated on: found where it lies now, and known by its fingerprint."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vit_colossal.config.settings.data import DataSettings
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.data.cache import CacheOptions
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.prepare import open_data, source_request
from vit_colossal.data.sources.columns import column_values
from vit_colossal.data.sources.source import ImageSource
from vit_colossal.data.streams import StreamedSource
from vit_colossal.errors import DataError
from vit_colossal.rundir.data_record import (
    DataRecord,
    data_differences,
    has_data_record,
    is_there,
    local_path,
    read_data_record,
    split_record,
)
from vit_colossal.rundir.finished import read_run_config

Source = ImageSource | StreamedSource

#: Data settings that choose no images.
_HOW = ("cache_dir", "cache", "num_workers", "skip_bad_images")


@dataclass(frozen=True)
class Choice:
    """What is evaluated.

    Attributes:
        settings: the configuration with the data filled in.
        of_run: they are the run's, so that its choice of splits holds.
        keep_test: the run left what is called test for the end.
        source: opened already, where the settings choose just what the run did.
        notes: what a person should know, one line each.
    """

    settings: TrainConfig
    of_run: bool
    keep_test: bool = False
    source: Source | None = None
    notes: tuple[str, ...] = ()


def choose_data(config: TrainConfig, run_dir: Path, options: CacheOptions) -> Choice:
    """The run's own data, or what ``--dataset`` names; other data are never taken for the run's.

    Args:
        config: the data; only its data settings are read.
        run_dir: the run.
        options: how to decode a data set that is streamed.

    Raises:
        DataError: the run's data are not where they were, or have changed.
    """
    own = _settings_of_run(run_dir, config)
    if not has_data_record(run_dir):
        of_run = config.dataset in (None, own.dataset)
        note = f"{run_dir} has no data.json: nothing says whether these are the run's data"
        settings = _merged(config, own) if of_run else config
        return Choice(settings, of_run=of_run, keep_test=of_run, notes=(note,))
    record = read_data_record(run_dir)
    if config.dataset is None:
        return _own(config, own, record, run_dir, options)
    source = None
    with suppress(DataError):
        source = _open(own.replace(dataset=config.dataset), record, options)
    if source is not None and source.fingerprint == record.source:
        return _chosen(config, own.replace(dataset=config.dataset), record, source, ())
    same_place = config.dataset == record.dataset or _same_path(config.dataset, record.path)
    note = f"these are not the data that {run_dir} was trained and evaluated on"
    if same_place and source is not None:
        note += f": {data_differences(record, _record_of(source, record))}"
    elif record.evaluation is not None:
        note += f" ({record.evaluation.images} images of {record.evaluation.name!r})"
    note += "; the two accuracies cannot be compared"
    if same_place and source is not None and source.held_out:
        note += ", and images held out now may have been trained on"
    settings = _merged(config, own) if same_place else config
    keep_test = same_place and record.test_is_kept
    return Choice(settings, of_run=same_place, keep_test=keep_test, notes=(note,))


def _own(
    config: TrainConfig, own: TrainConfig, record: DataRecord, run_dir: Path, options: CacheOptions
) -> Choice:
    """The run's data, which nobody named."""
    place, moved = _place(record, run_dir)
    own = own.replace(dataset=place)
    source = _open(own, record, options)
    if record.source is None:
        note = "the run left out images that cannot be decoded: cannot tell whether its data are"
        return _chosen(config, own, record, source, (f"{note} still the same",))
    if source.fingerprint != record.source:
        details = data_differences(record, _record_of(source, record))
        gone = f"the run's data were at {record.path}, which is not there, and " if moved else ""
        raise DataError(
            [
                f"{run_dir}: {gone}{place} holds other data than the run was evaluated on "
                f"(fingerprint {record.source[:12]} then, {source.fingerprint[:12]} now): "
                f"{details}. Name the run's data with --dataset PATH; --dataset {place} evaluates "
                "on these, which cannot be compared with the run's accuracy"
            ]
        )
    note = f"the run's data were at {record.path}; the same were found at {local_path(place)}"
    return _chosen(config, own, record, source, (note,) if moved else ())


def _place(record: DataRecord, run_dir: Path) -> tuple[str, bool]:
    """Where the run's data are now, and whether that is another place than then.

    Raises:
        DataError: nowhere that they were known to be.
    """
    if record.path is not None and is_there(record.path):
        return record.path, False
    if record.path is None or is_there(record.dataset):
        return record.dataset, record.path is not None
    given = f" (given as {record.dataset})" if record.dataset != record.path else ""
    raise DataError(
        [
            f"{run_dir}: the run's data were at {record.path}{given}, which is not there: name "
            "where they lie now with --dataset PATH"
        ]
    )


def _settings_of_run(run_dir: Path, config: TrainConfig) -> TrainConfig:
    """The run's choice of images, read and kept as ``config`` says."""
    how = {name: getattr(config, name) for name in _HOW if name in config.model_fields_set}
    run = read_run_config(run_dir)
    return run.replace(**how) if how else run


def _chosen(
    config: TrainConfig,
    own: TrainConfig,
    record: DataRecord,
    source: Source,
    notes: tuple[str, ...],
) -> Choice:
    """The run's data with what ``config`` chooses of them."""
    settings = _merged(config, own)
    keep_test = record.test_is_kept
    one, other = (source_request(each, keep_test=keep_test) for each in (settings, own))
    return Choice(settings, True, keep_test, source if one == other else None, notes)


def _merged(config: TrainConfig, own: TrainConfig) -> TrainConfig:
    """The run's own data settings where ``config`` sets none."""
    given = {name for name in config.model_fields_set if getattr(config, name) is not None}
    names = {*DataSettings.model_fields, "seed"} - given | {"dataset"}
    return config.replace(**{name: getattr(own, name) for name in names})


def _open(config: TrainConfig, record: DataRecord, options: CacheOptions) -> Source:
    return open_data(source_request(config, keep_test=record.test_is_kept), options)


def _same_path(dataset: str, path: str | None) -> bool:
    place = local_path(dataset)
    return place is not None and path is not None and place.resolve() == Path(path).resolve()


def _record_of(source: Source, record: DataRecord) -> DataRecord:
    """What is known of some data before they are decoded."""
    train, evaluation = (_numbers(source, name) for name in ("train", "evaluation"))
    name = record.train.name if record.train is not None else "train"
    return DataRecord(
        dataset=source.name,
        labels=source.labels,
        eval_split=source.eval_split,
        train=split_record(name, train, source.labels),
        evaluation=split_record(source.eval_split, evaluation, source.labels),
        fingerprint=source.fingerprint,
    )


def _numbers(source: Source, name: str) -> np.ndarray:
    """The numbers of a split's labels, [N], with those of images that cannot be decoded."""
    if isinstance(source, StreamedSource):
        split: CachedSplit = getattr(source, name)
        return np.array([*split.labels.tolist(), *(image.label for image in split.bad)], np.int64)
    return np.array(column_values(getattr(source, name), source.label_column), np.int64)
