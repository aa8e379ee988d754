"""A split of any data set, made to fit a trained model: its size, its labels, its normalization."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from vit_colossal.config.settings.data import DataSettings
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.data.cache import CachedSplit, CacheOptions
from vit_colossal.data.prepare import cache_options, decode_split, open_data, source_request
from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.source import ImageSource
from vit_colossal.data.streams import StreamedSource
from vit_colossal.errors import ConfigError, DataError
from vit_colossal.model.vit import build_processor
from vit_colossal.rundir.finished import read_run_config
from vit_colossal.trained.saved import SavedModel, require_labels

Source = ImageSource | StreamedSource


@dataclass(frozen=True)
class EvalSplit:
    """Decoded images whose labels are the model's.

    Attributes:
        dataset: its name, aliases resolved.
        name: the split's.
        samples: uint8 images in the model's size; labels number the model's outputs.
        image_mean, image_std: per channel, from the model's processor.
        reordered: the data set lists the same labels in another order.
    """

    dataset: str
    name: str
    samples: CachedSplit
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    reordered: bool


def open_split(config: TrainConfig, saved: SavedModel, *, progress: bool = False) -> EvalSplit:
    """The split to evaluate ``saved`` on.

    A model that lies in its run directory is evaluated on what its run was evaluated on, unless
    the configuration names something else. Another data set that has no evaluation split is taken
    whole: nothing of it was trained on.

    Args:
        config: the data; only its data settings are read.
        saved: the trained model.
        progress: show a bar while decoding.

    Raises:
        ConfigError: no data set is named, it cannot be read, or its labels are not the model's.
    """
    settings = _with_data_of_run(config, saved)
    if settings.dataset is None:
        raise ConfigError([f"--dataset: name the data set to evaluate {saved} on"])
    processor = build_processor(saved.spec)
    options = cache_options(settings, saved.spec, processor, progress=progress)
    request, given = source_request(settings), config.model_fields_set
    if "eval_split" in given and config.eval_split is not None:
        source = _open_named(request, config.eval_split, options)
    else:
        held_out = settings is not config or "val_split" in given
        source = _open_default(request, options, held_out=held_out)
    order = require_labels(saved, source.labels, source.name)
    decoded = decode_split(source, "evaluation", settings, options)
    labels = np.asarray(order, dtype=np.int64)[decoded.labels]
    return EvalSplit(
        dataset=source.name,
        name=source.eval_split.removesuffix("[:]"),
        samples=replace(decoded, labels=labels),
        image_mean=tuple(processor.image_mean),
        image_std=tuple(processor.image_std),
        reordered=order != tuple(sorted(order)),
    )


def _with_data_of_run(config: TrainConfig, saved: SavedModel) -> TrainConfig:
    """The run's own data settings where ``config`` sets none; ``config`` itself for other data."""
    if saved.run_dir is None:
        return config
    run = read_run_config(saved.run_dir)
    if config.dataset not in (None, run.dataset):
        return config
    given = {name for name in config.model_fields_set if getattr(config, name) is not None}
    names = {*DataSettings.model_fields, "seed"} - given
    return config.replace(**{name: getattr(run, name) for name in names})


def _open_named(request: SourceRequest, split: str, options: CacheOptions) -> Source:
    """The whole of one split, be it the training split, or the only one there is."""
    train = request.train_split or "train"
    # A slice of everything: the training split's own name would hold out a part of it.
    whole = split if "[" in split else f"{split}[:]"
    try:
        return open_data(replace(request, eval_split=whole if split == train else split), options)
    except DataError as error:
        if request.train_split is not None:
            raise
        # Nothing is trained here, so there may be no training split.
        with suppress(DataError):
            return open_data(replace(request, train_split=split, eval_split=whole), options)
        raise error


def _open_default(request: SourceRequest, options: CacheOptions, *, held_out: bool) -> Source:
    source = open_data(request, options)
    if held_out or not source.eval_split.endswith(" held out)"):
        return source
    return open_data(replace(request, eval_split=f"{request.train_split or 'train'}[:]"), options)
