"""Trainer's order against accelerate's own samplers, and how it is dealt to the shards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from torch.utils.data import BatchSampler

from vit_colossal.data.loaders import Shard, TrainBatches
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.trainer_order import trainer_steps
from vit_colossal.data.transforms import Augmentation
from vit_colossal.plan.trainer_cut import TrainerCut

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
    cut = TrainerCut(processes, processes * batch, accumulation)
    for count in (1, 2, 5, 8, 24, 25, 53):
        for epoch in (0, 3):
            expected = accelerates(count, cut, epoch)
            steps = trainer_steps(count, SEED, epoch, cut)
            assert [[rows.tolist() for rows in step] for step in steps] == expected
            assert len(steps) == cut.steps_per_epoch(count)
            assert sum(map(len, steps[-1])) == cut.last_step(count)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("pipeline", [False, True])
def test_every_layout_sees_each_image_of_an_update_once(size: int, pipeline: bool) -> None:
    count, cut = 53, TrainerCut(1, 12, 2)
    split = CachedSplit(np.zeros((count, 3, 2, 2), np.uint8), np.arange(count))
    expected = trainer_steps(count, SEED, 2, cut)
    accumulation = 1 if pipeline else 2
    found: list[list[int]] = [[] for _ in expected]
    for rank in range(size):
        shard, plain = Shard(rank, size), Augmentation()
        batches = TrainBatches(
            split, 24, accumulation, shard, SEED, plain, trainer=cut, full=pipeline
        )
        assert batches.steps_per_epoch == 3
        for step, parts in enumerate(batches.batches(2, first_step=1), start=1):
            assert len(parts) == (1 if pipeline else len(expected[step]))
            for batch in parts:
                real = batch.indices >= 0
                assert torch.equal(batch.labels == -100, ~real)
                assert batch.step_size == sum(map(len, expected[step]))
                assert not pipeline or len(batch.labels) == batches.batch_size
                found[step] += batch.indices[real].tolist()
    for rows, parts in zip(found[1:], expected[1:], strict=True):
        assert sorted(rows) == sorted(torch.cat(parts).tolist())
