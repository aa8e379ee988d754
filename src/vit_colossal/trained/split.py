"""A split of any data set, made to fit a trained model: its size, its labels, its normalization."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.data.cache import CacheOptions
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.prepare import (
    cache_options,
    decode_split,
    open_data,
    require_readers,
    source_request,
)
from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.errors import ConfigError, DataError
from vit_colossal.model.preprocessing import Preprocessing
from vit_colossal.model.processor import preprocessing_of
from vit_colossal.trained.run_data import Choice, Source, choose_data
from vit_colossal.trained.saved import SavedModel


@dataclass(frozen=True)
class EvalSplit:
    """Decoded images whose labels are the model's.

    Attributes:
        dataset: its name, aliases resolved.
        name: the split's.
        samples: uint8 images in the model's size; labels number the model's outputs.
        preprocessing: how the pixels become the model's inputs.
        fingerprint: of the data set's content.
        notes: what a person should know, one line each.
    """

    dataset: str
    name: str
    samples: CachedSplit
    preprocessing: Preprocessing
    fingerprint: str
    notes: tuple[str, ...] = ()


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
        ConfigError: no data set is named, it cannot be read, it is no longer the run's, or it has
            labels that the model does not know.
    """
    how = preprocessing_of(saved.spec)
    options = cache_options(config, how, progress=progress)
    if saved.run_dir is not None:
        choice = choose_data(config, saved.run_dir, options)
    elif config.dataset is not None:
        choice = Choice(config, of_run=False)
    else:
        raise ConfigError([f"--dataset: name the data set to evaluate {saved} on"])
    settings = choice.settings
    options = cache_options(settings, how, progress=progress)
    source = choice.source or _open(config, choice, options)
    outputs = outputs_of(saved.labels, source.labels, source.name)
    require_readers(source, ("evaluation",), options)
    decoded = decode_split(source, "evaluation", settings, options)
    labels = np.asarray(outputs, dtype=np.int64)[decoded.labels]
    return EvalSplit(
        dataset=source.name,
        name=source.eval_split.removesuffix("[:]"),
        samples=replace(decoded, labels=labels),
        preprocessing=how,
        fingerprint=source.fingerprint,
        notes=(
            *how.notes,
            *choice.notes,
            *source.notes,
            *_label_notes(saved.labels, source.labels, outputs),
        ),
    )


def outputs_of(ours: tuple[str, ...], theirs: tuple[str, ...], dataset: str) -> tuple[int, ...]:
    """For each of a data set's labels, the model's output that has the same name.

    A name is the same in either way that Unicode has of writing it: file systems change it.

    Args:
        ours: the model's labels, in the order of its outputs.
        theirs: the data set's; they may be a part of the model's.
        dataset: its name, for messages.

    Raises:
        ConfigError: the model does not know a name.
    """
    places = {unicodedata.normalize("NFC", label): place for place, label in enumerate(ours)}
    places |= {label: place for place, label in enumerate(ours)}
    found = [places.get(label, places.get(unicodedata.normalize("NFC", label))) for label in theirs]
    unknown = [label for label, place in zip(theirs, found, strict=True) if place is None]
    if unknown:
        problem = (
            f"--dataset {dataset}: the model does not know {len(unknown)} of its "
            f"{len(theirs)} labels: {_some(unknown)}; it knows {_some(ours)}"
        )
        if all(label.lstrip("-").isdecimal() for label in unknown):
            problem += "; numbers do not say which of these they mean"
        raise ConfigError([f"{problem}: choose data with the model's label names"])
    outputs = tuple(place for place in found if place is not None)
    if len(set(outputs)) < len(outputs):
        twice = [label for label, n in zip(theirs, outputs, strict=True) if outputs.count(n) > 1]
        raise ConfigError([f"--dataset {dataset}: labels are the same but for Unicode: {twice}"])
    return outputs


def _label_notes(
    ours: tuple[str, ...], theirs: tuple[str, ...], outputs: tuple[int, ...]
) -> list[str]:
    notes = []
    if outputs != tuple(sorted(outputs)):
        notes.append("the data set lists the labels in another order: matched by name")
    missing = [label for place, label in enumerate(ours) if place not in set(outputs)]
    if missing:
        notes.append(
            f"the data set has {len(theirs)} of the model's {len(ours)} labels, matched by name; "
            f"none of {_some(missing)}"
        )
    return notes


def _some(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels[:5])) + (" ..." if len(labels) > 5 else "")


def _open(config: TrainConfig, choice: Choice, options: CacheOptions) -> Source:
    """Open what was chosen."""
    request = source_request(choice.settings, keep_test=choice.keep_test)
    request = replace(request, min_labels=1)
    given = config.model_fields_set
    if "val_split" in given and config.dataset is None and choice.of_run:
        raise ConfigError(
            [
                f"--val-split {config.val_split}: a run is evaluated on the images that it held "
                "out: drop it, or name data with --dataset"
            ]
        )
    if "eval_split" in given and config.eval_split is not None:
        return _open_named(request, config.eval_split, options)
    return _open_default(request, options, held_out=choice.of_run or "val_split" in given)


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
    if held_out or not source.held_out:
        return source
    return open_data(replace(request, eval_split=f"{request.train_split or 'train'}[:]"), options)
