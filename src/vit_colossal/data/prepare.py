"""A run's splits, opened, checked and decoded: what every rank maps into memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vit_colossal.data.cache import CacheOptions, prepare_images
from vit_colossal.data.heic import unreadable
from vit_colossal.data.lazy import check_images
from vit_colossal.data.originals import Originals, originals_of
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.sources.request import SourceRequest, default_cache_root
from vit_colossal.data.sources.source import ImageSource, choose, load
from vit_colossal.data.streams import StreamedSource, read_streams
from vit_colossal.errors import DataError
from vit_colossal.model.preprocessing import Preprocessing
from vit_colossal.plan.epoch_cut import epoch_cut
from vit_colossal.plan.plan import RunPlan
from vit_colossal.plan.recipe import MIN_CROP_SCALE

if TYPE_CHECKING:
    from vit_colossal.config.train_config import TrainConfig
    from vit_colossal.data.loaders import EvalBatches, Shard, TrainBatches


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


def train_batches(
    plan: RunPlan, data: RunData, shard: Shard, *, pixels: bool = True
) -> TrainBatches:
    """The plan's batches for one data-parallel coordinate; without pixels, where nobody reads them.

    Later pipeline stages need labels and how to mix them, and so neither decode nor augment.
    """
    from vit_colossal.data.balance import balanced_weights
    from vit_colossal.data.loaders import TrainBatches
    from vit_colossal.data.mixing import Mixing
    from vit_colossal.data.transforms import Augmentation

    config, on_cuda = plan.config, plan.device.kind == "cuda"
    augmentation = Augmentation(
        random_resized_crop=bool(config.random_resized_crop),
        min_scale=config.min_crop_scale or MIN_CROP_SCALE,
        horizontal_flip=config.horizontal_flip,
        auto=config.auto_augment,
        num_ops=config.randaugment_num_ops or 2,
        magnitude=9 if config.randaugment_magnitude is None else config.randaugment_magnitude,
        erasing=config.random_erasing or 0.0,
        fill=data.preprocessing.fill,
    )
    weighted = config.class_weights == "balanced"
    return TrainBatches(
        data.train,
        epoch_cut(config),
        plan.batches.accumulation,
        shard,
        config.seed,
        augmentation,
        Mixing(config.mixup or 0.0, config.cutmix or 0.0),
        balanced=config.sampler == "balanced",
        class_weights=balanced_weights(data.train.labels, len(data.labels)) if weighted else None,
        num_workers=loader_workers(config, busy=on_cuda and augmentation.active) if pixels else 0,
        pin_memory=on_cuda,
        pixels=pixels,
        full=plan.dims.pp > 1 or config.compile,
    )


def eval_batches(
    plan: RunPlan, split: CachedSplit, shard: Shard, *, pixels: bool = True
) -> EvalBatches:
    """The batches of an evaluation, likewise."""
    from vit_colossal.data.loaders import EvalBatches

    return EvalBatches(
        split,
        plan.batches.forward_batch,
        shard,
        num_workers=loader_workers(plan.config) if pixels else 0,
        pin_memory=plan.device.kind == "cuda",
        pixels=pixels,
    )


def prepare_data(plan: RunPlan, *, keep_test: bool = True, progress: bool = False) -> RunData:
    """Open the source, and decode what is not cached yet.

    Needs no process group: the first process to get here builds the cache, the others wait for it.

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
    train, evaluation = _decode_both(source, config, options)
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


def loader_workers(config: TrainConfig, *, busy: bool = False) -> int:
    """Loader processes of this rank; they change speed and nothing else.

    Args:
        config: what was asked for.
        busy: there is more to do than reading the cache, and the cores are not computing.
    """
    if config.num_workers is not None:
        return config.num_workers
    if config.cache and not busy:
        return 0
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, len(os.sched_getaffinity(0)) // ranks))


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
        options = replace(options, split="training" if name == "train" else name)
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
    """Raise DataError for files of splits that this machine cannot read, before any is decoded."""
    if options.skip_bad or isinstance(source, StreamedSource):
        return
    problems = []
    for name in names:
        problems += unreadable(getattr(source, name), source.image_column, name)
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
