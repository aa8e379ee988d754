"""A run's splits, opened, checked and decoded: what every rank maps into memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from vit_colossal.data.cache import CacheOptions, bad_problems, prepare_images, rows_of
from vit_colossal.data.decoding import no_images
from vit_colossal.data.heic import is_named_so, unreadable
from vit_colossal.data.lazy import check_images
from vit_colossal.data.originals import Originals, originals_of
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.sources.request import SourceRequest, default_cache_root
from vit_colossal.data.sources.source import ImageSource, choose, load
from vit_colossal.data.streams import StreamedSource, read_streams
from vit_colossal.errors import DataError
from vit_colossal.model.preprocessing import Preprocessing
from vit_colossal.plan.plan import RunPlan

if TYPE_CHECKING:
    import datasets

    from vit_colossal.config.train_config import TrainConfig

#: What the two splits are called in messages.
_NAMES = {"train": "training", "evaluation": "evaluation"}


@dataclass(frozen=True)
class RunData:
    """Decoded splits and how to normalize them.

    Attributes:
        name: what ``--dataset`` said.
        fingerprint: identity of the content.
        source: the same with the images that cannot be decoded and were left out.
        columns: the image and the label column.
        eval_split: name of the evaluation split.
        labels: label names, in order.
        train, evaluation: uint8 images and int64 labels, memory-mapped or decoded on the fly.
        preprocessing: how the images become the model's inputs.
        notes: what a person should know about the data, one line each.
        overview: what was read as what, one line for each split.
        originals: where the evaluation images come from; None where nobody asks.
    """

    name: str
    fingerprint: str
    eval_split: str
    labels: tuple[str, ...]
    train: CachedSplit
    evaluation: CachedSplit
    preprocessing: Preprocessing
    source: str
    columns: tuple[str, str]
    notes: tuple[str, ...] = ()
    overview: tuple[str, ...] = ()
    originals: Originals | None = None


@dataclass(frozen=True)
class FoundData:
    """A run's splits before they are decoded; those of a stream already are.

    Attributes:
        source: the splits, counted.
        config: the run's settings.
        preprocessing: how the images become the model's inputs.
        options: how to decode them, and where to.
    """

    source: ImageSource | StreamedSource
    config: TrainConfig
    preprocessing: Preprocessing
    options: CacheOptions


def find_data(plan: RunPlan, *, keep_test: bool = True, progress: bool = False) -> FoundData:
    """Open the source.

    Args:
        plan: the validated run.
        keep_test: whether what is called test is left for the end, as evaluations choose the best
            epoch.
        progress: show a progress bar while decoding.

    Raises:
        DataError: the data cannot be used.
    """
    from vit_colossal.model.processor import preprocessing_of

    config, how = plan.config, preprocessing_of(plan.spec)
    options = cache_options(config, how, progress=progress)
    source = open_data(source_request(config, keep_test=keep_test), options)
    require_readers(source, ("train", "evaluation"), options)
    return FoundData(source, config, how, options)


def decode_data(found: FoundData) -> RunData:
    """Decode what is not cached yet.

    Needs no process group: the first process to get here builds the cache, the others wait for it.

    Raises:
        DataError: images cannot be decoded, or the cache cannot be written.
    """
    source, how = found.source, found.preprocessing
    train, evaluation = _decode_both(source, found.config, found.options)
    return RunData(
        name=source.name,
        fingerprint=_fingerprint(source, train, evaluation),
        eval_split=source.eval_split,
        labels=source.labels,
        train=train,
        evaluation=evaluation,
        preprocessing=how,
        source=source.fingerprint,
        columns=(source.image_column, source.label_column),
        notes=(*how.notes, *source.notes, *_left_out(train, evaluation)),
        overview=source.overview,
        originals=originals_of(source, evaluation),
    )


def cache_options(config: TrainConfig, how: Preprocessing, *, progress: bool) -> CacheOptions:
    """How images are decoded for a model, and where they are kept."""
    return CacheOptions(
        preprocessing=replace(how, draft=config.jpeg_draft),
        root=config.cache_dir or default_cache_root(),
        skip_bad=config.skip_bad_images,
        progress=progress,
    )


def open_data(request: SourceRequest, options: CacheOptions) -> ImageSource | StreamedSource:
    """Find the data set, its columns and its splits; a streamed one is decoded on the way.

    Args:
        request: what the settings ask for.
        options: how to decode.

    Raises:
        DataError: it cannot be found, read or used for classification.
    """
    loaded = load(request)
    return read_streams(loaded, request, options) if loaded.streamed else choose(loaded, request)


def source_request(config: TrainConfig, *, keep_test: bool) -> SourceRequest:
    """What the settings ask for.

    Args:
        config: the settings.
        keep_test: whether what is called test is left for the end: where evaluations choose.
    """
    return SourceRequest(
        dataset=config.dataset or "",
        image_column=config.image_column,
        label_column=config.label_column,
        train_split=config.train_split,
        eval_split=config.eval_split,
        val_split=config.val_split,
        seed=config.seed,
        keep_test=keep_test,
        classes_are_folders=config.classes_are_folders,
        dataset_config=config.dataset_config,
        revision=config.dataset_revision,
        max_train_samples=config.max_train_samples,
        max_eval_samples=config.max_eval_samples,
        streaming=config.streaming,
        cache_dir=config.cache_dir,
    )


def decode_split(
    source: ImageSource | StreamedSource, name: str, config: TrainConfig, options: CacheOptions
) -> CachedSplit:
    """The split ``name`` (``train`` or ``evaluation``), from the cache or decoded on the fly.

    Raises:
        DataError: images cannot be decoded, or the cache cannot be written.
    """
    if isinstance(source, StreamedSource):
        split: CachedSplit = getattr(source, name)
    else:
        options = replace(options, split=_NAMES[name])
        columns = source.image_column, source.label_column
        prepare = prepare_images if config.cache else check_images
        split = prepare(getattr(source, name), *columns, _key(source, name), options)
    count = len(source.labels)
    outside = split.labels[(split.labels < 0) | (split.labels >= count)]
    if outside.size:
        raise DataError([f"{name} split: label {outside[0]}, where there are {count} names"])
    return split


def require_readers(
    source: ImageSource | StreamedSource, names: Sequence[str], options: CacheOptions
) -> None:
    """Raise DataError for files of splits that this machine cannot read, before any is decoded.

    With them it names what is no image at all; what is cut off, decoding tells.
    """
    if options.skip_bad or isinstance(source, StreamedSource):
        return
    problems = []
    for name in names:
        problems += unreadable(getattr(source, name), source.image_column, _NAMES[name])
    for name in names if problems else ():
        rows: datasets.Dataset = getattr(source, name)
        chunks = rows_of(rows, source.image_column, source.label_column)()
        others = [image for image in no_images(chain(*chunks)) if not is_named_so(image.path)]
        problems += bad_problems(others, len(rows), replace(options, split=_NAMES[name]))
    if problems:
        raise DataError(problems)


def _decode_both(
    source: ImageSource | StreamedSource, config: TrainConfig, options: CacheOptions
) -> tuple[CachedSplit, CachedSplit]:
    """Both splits; what is wrong with either is said at once."""
    splits, problems = [], []
    for name in ("train", "evaluation"):
        if isinstance(source, ImageSource):
            options = replace(options, images_to_follow=_to_follow(source, name, options))
        try:
            splits.append(decode_split(source, name, config, options))
        except DataError as error:
            problems += [line for line in error.problems if line not in problems]
    if problems:
        raise DataError(problems)
    return splits[0], splits[1]


def _key(source: ImageSource, name: str) -> str:
    return f"{source.fingerprint}/{name}"


def _to_follow(source: ImageSource, name: str, options: CacheOptions) -> int:
    """How many images the other split has yet to write: hours later is late to miss the room."""
    other = "evaluation" if name == "train" else "train"
    entry = options.entry(_key(source, other), source.image_column, source.label_column)
    return 0 if entry.exists() else len(getattr(source, other))


def _fingerprint(
    source: ImageSource | StreamedSource, train: CachedSplit, evaluation: CachedSplit
) -> str:
    """The identity of what is left when bad images were left out."""
    if not train.bad and not evaluation.bad:
        return source.fingerprint
    numbers = [[image.number for image in split.bad] for split in (train, evaluation)]
    return hashlib.sha256(json.dumps([source.fingerprint, numbers]).encode()).hexdigest()


def _left_out(train: CachedSplit, evaluation: CachedSplit) -> list[str]:
    """How many images were skipped, and the first of them."""
    notes = []
    for name, split in (("training", train), ("evaluation", evaluation)):
        if split.bad:
            total = len(split) + len(split.bad)
            notes.append(f"left out {len(split.bad)} of {total} {name} images:")
            notes += [f"  {image}" for image in split.bad[:10]]
            notes += ["  ..."] if len(split.bad) > 10 else []
    return notes
