"""Trainer's order against accelerate's own samplers, and how it is dealt to the shards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from torch.utils.data import BatchSampler

from vit_colossal.data.loaders import Shard, TrainBatches
from vit_colossal.data.order import steps_of, trainer_order
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.transforms import Augmentation
from vit_colossal.families.table import FAMILIES
from vit_colossal.plan.epoch_cut import TrainerCut

SEED = 7


def accelerates(count: int, cut: TrainerCut, epoch: int) -> list[list[list[int]]]:
    """For each update, for each of its slices, what accelerate gives all processes."""
    batch = cut.slice_size // cut.processes
    every = []
    for process in range(cut.processes):
        sampler = SeedableRandomSampler(range(count), data_seed=SEED)
        sampler.set_epoch(epoch)
        batches = BatchSampler(sampler, batch, drop_last=False)
        if cut.processes > 1:  # accelerate leaves a lone process its batches
            batches = BatchSamplerShard(batches, cut.processes, process)
        every.append(list(batches))
    slices = [[row for part in parts for row in part] for parts in zip(*every, strict=True)]
    taken = range(0, len(slices), cut.accumulation)
    return [slices[first : first + cut.accumulation] for first in taken]


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_updates_are_those_of_accelerate_s_samplers(
    processes: int, batch: int, accumulation: int
) -> None:
    cut = TrainerCut(processes * batch, accumulation, True, processes)
    for count in (1, 2, 5, 8, 24, 25, 53):
        for epoch in (0, 3):
            expected = accelerates(count, cut, epoch)
            steps = steps_of(trainer_order(count, SEED, epoch, cut), cut)
            assert [[rows.tolist() for rows in step] for step in steps] == expected
            assert len(steps) == cut.steps_per_epoch(count)
            assert sum(map(len, steps[-1])) == cut.last_step(count)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("pipeline", [False, True])
def test_every_layout_sees_each_image_of_an_update_once(size: int, pipeline: bool) -> None:
    count, cut = 53, TrainerCut(12, 2, True)
    split = CachedSplit(np.zeros((count, 3, 2, 2), np.uint8), np.arange(count))
    expected = steps_of(trainer_order(count, SEED, 2, cut), cut)
    accumulation = 1 if pipeline else 2
    found: list[list[int]] = [[] for _ in expected]
    for rank in range(size):
        shard, plain = Shard(rank, size), Augmentation()
        batches = TrainBatches(split, cut, accumulation, shard, SEED, plain, full=pipeline)
        assert batches.steps_per_epoch == 3
        for step, parts in enumerate(batches.batches(2, first_step=1), start=1):
            assert len(parts) == (1 if pipeline else len(expected[step]))
            for batch in parts:
                real = batch.indices >= 0
                assert torch.equal(batch.labels == -100, ~real)
                assert batch.total == sum(map(len, expected[step]))
                assert not pipeline or len(batch.labels) == batches.batch_size
                found[step] += batch.indices[real].tolist()
    for rows, parts in zip(found[1:], expected[1:], strict=True):
        assert sorted(rows) == sorted(torch.cat(parts).tolist())


@pytest.mark.parametrize("size", [1, 2])
def test_every_slice_of_an_update_counts_alike_where_trainer_averages(size: int) -> None:
    """41 images in batches of 12: the last update has one of 12 and one of 5."""
    cut, count = TrainerCut(12, 2, True), 41
    split = CachedSplit(np.zeros((count, 3, 2, 2), np.uint8), np.arange(count))
    for rank in range(size):
        shard, plain = Shard(rank, size), Augmentation()
        batches = TrainBatches(split, cut, 2, shard, SEED, plain, averages_slices=True)
        totals = [[batch.total for batch in step] for step in batches.batches(0)]
        assert totals == [[24, 24], [24, 10]]


def test_the_families_say_where_trainer_averages() -> None:
    for name, row in FAMILIES.items():
        if row.in_transformers:
            takes = getattr(getattr(transformers, row.classifier), "accepts_loss_kwargs", True)
            assert row.averages_slices == (takes is False), name
