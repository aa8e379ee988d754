"""A run's splits, opened, checked and decoded: what every rank maps into memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vit_colossal.data.cache import CachedSplit, default_cache_root, prepare_images
from vit_colossal.data.sources import SourceRequest, open_source
from vit_colossal.validation import RunPlan, check_data

if TYPE_CHECKING:
    from vit_colossal.data.loaders import Shard, TrainBatches


@dataclass(frozen=True)
class RunData:
    """Decoded splits and how to normalize them.

    Attributes:
        name: what ``--dataset`` said.
        fingerprint: identity of the content.
        eval_split: name of the evaluation split.
        labels: label names, in order.
        train, evaluation: uint8 images and int64 labels, memory-mapped.
        image_mean, image_std: per channel, from the model's processor.
    """

    name: str
    fingerprint: str
    eval_split: str
    labels: tuple[str, ...]
    train: CachedSplit
    evaluation: CachedSplit
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]


def train_batches(plan: RunPlan, split: CachedSplit, shard: Shard) -> TrainBatches:
    """The plan's batches for one data-parallel coordinate."""
    from vit_colossal.data.loaders import TrainBatches
    from vit_colossal.data.transforms import Augmentation

    config = plan.config
    return TrainBatches(
        split,
        plan.batches.global_batch,
        plan.batches.accumulation,
        shard,
        config.seed,
        Augmentation(
            random_resized_crop=config.random_resized_crop,
            min_scale=config.min_crop_scale,
            horizontal_flip=config.horizontal_flip,
        ),
        num_workers=config.num_workers,
        pin_memory=plan.device.kind == "cuda",
    )


def prepare_data(plan: RunPlan, *, progress: bool = False) -> RunData:
    """Open the source, check it against the plan, and decode what is not cached yet.

    Needs no process group: the first process to get here builds the cache, the others wait for it.

    Args:
        plan: the validated run.
        progress: show a progress bar while decoding.

    Raises:
        ConfigError: the data cannot be used, or is too small for the batch.
    """
    from vit_colossal.model import build_processor

    config = plan.config
    source = open_source(
        SourceRequest(
            dataset=config.dataset or "",
            image_column=config.image_column,
            label_column=config.label_column,
            train_split=config.train_split,
            eval_split=config.eval_split,
            val_split=config.val_split,
            seed=config.seed,
            dataset_config=config.dataset_config,
            revision=config.dataset_revision,
            max_train_samples=config.max_train_samples,
            max_eval_samples=config.max_eval_samples,
        )
    )
    check_data(plan, len(source.train), len(source.evaluation))
    processor = build_processor(plan.spec)

    def decoded(name: str) -> CachedSplit:
        return prepare_images(
            getattr(source, name),
            source.image_column,
            source.label_column,
            size=(plan.spec.image_size, plan.spec.image_size),
            resample=int(processor.resample),
            key=f"{source.fingerprint}/{name}",
            root=config.cache_dir or default_cache_root(),
            progress=progress,
        )

    return RunData(
        name=source.name,
        fingerprint=source.fingerprint,
        eval_split=source.eval_split,
        labels=source.labels,
        train=decoded("train"),
        evaluation=decoded("evaluation"),
        image_mean=tuple(processor.image_mean),
        image_std=tuple(processor.image_std),
    )
