"""The batches of a plan's splits, as one data-parallel coordinate gets them."""

from __future__ import annotations

import os

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.data.balance import balanced_weights
from vit_colossal.data.loaders import EvalBatches, Shard, TrainBatches
from vit_colossal.data.mixing import Mixing
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.prepare import RunData
from vit_colossal.data.transforms import Augmentation
from vit_colossal.plan.epoch_cut import epoch_cut
from vit_colossal.plan.plan import RunPlan
from vit_colossal.plan.recipe import MIN_CROP_SCALE


def train_batches(
    plan: RunPlan, data: RunData, shard: Shard, *, pixels: bool = True
) -> TrainBatches:
    """The plan's batches for one data-parallel coordinate; without pixels, where nobody reads them.

    Later pipeline stages need labels and how to mix them, and so neither decode nor augment.
    """
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
        averages_slices=config.order == "transformers" and plan.spec.family.averages_slices,
    )


def eval_batches(
    plan: RunPlan, split: CachedSplit, shard: Shard, *, pixels: bool = True
) -> EvalBatches:
    """The batches of an evaluation, likewise."""
    return EvalBatches(
        split,
        plan.batches.forward_batch,
        shard,
        num_workers=loader_workers(plan.config) if pixels else 0,
        pin_memory=plan.device.kind == "cuda",
        pixels=pixels,
    )


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
