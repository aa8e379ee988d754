from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from vit_colossal.data.loaders import EvalBatches, Shard, TrainBatches
from vit_colossal.data.mixing import Mixing
from vit_colossal.data.order import epoch_order
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.samples import Batch
from vit_colossal.data.transforms import Augmentation, augment
from vit_colossal.errors import DataError
from vit_colossal.plan.epoch_cut import EpochCut

ONE = Shard(0, 1)
BOTH = Augmentation(random_resized_crop=True, horizontal_flip=True)


def split_of(count: int) -> CachedSplit:
    """Images whose pixels and labels tell which sample they are."""
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (count, 3, 6, 5)).astype(np.uint8)
    images[:, 0, 0, 0] = np.arange(count) % 256
    return CachedSplit(images, np.arange(count, dtype=np.int64) * 10)


def train(count: int = 50, shard: Shard = ONE, **options: object) -> TrainBatches:
    settings = {
        "global_batch_size": 8,
        "accumulation": 1,
        "seed": 42,
        "augmentation": Augmentation(),
        "keeps_last": False,
    } | options
    batch, accumulation = settings.pop("global_batch_size"), settings["accumulation"]
    cut = EpochCut(batch // (accumulation or 1), accumulation, settings.pop("keeps_last"))
    return TrainBatches(split_of(count), cut, shard=shard, **settings)


def same(left: Batch, right: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left[:3], right[:3], strict=True))


# --- Order ----------------------------------------------------------------------------------------


def test_the_order_is_a_permutation_given_by_seed_and_epoch() -> None:
    order = epoch_order(100, seed=42, epoch=0)
    assert sorted(order.tolist()) == list(range(100))
    assert torch.equal(order, epoch_order(100, seed=42, epoch=0))
    assert not torch.equal(order, epoch_order(100, seed=43, epoch=0))
    assert not torch.equal(order, epoch_order(100, seed=42, epoch=1))
    # Seed and epoch are mixed, not added.
    assert not torch.equal(epoch_order(100, 42, 1), epoch_order(100, 43, 0))


def test_neither_order_nor_loaders_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    list(train(augmentation=BOTH).batches(epoch=0))
    list(EvalBatches(split_of(9), 4, ONE).batches())
    assert torch.equal(torch.get_rng_state(), before)


# --- Training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_layouts_share_out_the_same_global_batches(size: int, accumulation: int) -> None:
    order = epoch_order(50, seed=42, epoch=3)
    runs = [
        list(train(shard=Shard(rank, size), accumulation=accumulation).batches(epoch=3))
        for rank in range(size)
    ]
    assert {len(run) for run in runs} == {50 // 8}
    for step in range(50 // 8):
        slices = [
            torch.cat([run[step][part].indices for run in runs]) for part in range(accumulation)
        ]
        assert all(len(run[step]) == accumulation for run in runs)
        assert torch.equal(torch.cat(slices), order[step * 8 : step * 8 + 8])


def test_accumulation_slices_are_contiguous_and_ranks_contiguous_in_them() -> None:
    batches = train(shard=Shard(1, 2), accumulation=2, shuffle=False).batches(epoch=0)
    first, second = (b.indices.tolist() for b in next(batches))
    assert (first, second) == ([2, 3], [6, 7])
    first, second = (b.indices.tolist() for b in next(batches))
    assert (first, second) == ([10, 11], [14, 15])


def test_batches_hold_the_pixels_and_labels_of_their_indices() -> None:
    split = split_of(50)
    for (batch,) in train(shard=Shard(1, 2)).batches(epoch=1):
        assert (batch.images.dtype, batch.labels.dtype) == (torch.uint8, torch.int64)
        assert batch.images.shape == (4, 3, 6, 5)
        assert np.array_equal(batch.images.numpy(), split.images[batch.indices.numpy()])
        assert torch.equal(batch.labels, batch.indices * 10)


def test_an_epoch_uses_each_sample_at_most_once_and_drops_others_each_time() -> None:
    used = [
        [i for step in train().batches(epoch) for batch in step for i in batch.indices.tolist()]
        for epoch in (0, 1)
    ]
    assert all(len(epoch) == len(set(epoch)) == 48 for epoch in used)
    assert set(used[0]) != set(used[1])


def test_a_run_continues_where_it_stopped() -> None:
    whole = list(train(augmentation=BOTH, accumulation=2).batches(epoch=2))
    rest = list(train(augmentation=BOTH, accumulation=2).batches(epoch=2, first_step=4))
    assert len(rest) == len(whole) - 4
    for expected, found in zip(whole[4:], rest, strict=True):
        assert all(same(a, b) for a, b in zip(expected, found, strict=True))
    assert list(train().batches(epoch=2, first_step=6)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_never_change_a_value(workers: int) -> None:
    alone = train(augmentation=BOTH, accumulation=2)
    helped = replace(alone, num_workers=workers)
    for epoch in (0, 1):  # the same object twice: no worker may remember the first epoch
        pairs = list(zip(alone.batches(epoch), helped.batches(epoch), strict=True))
        assert len(pairs) == 6
        for a, b in pairs:
            assert all(same(left, right) for left, right in zip(a, b, strict=True))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_augmented_pixels_depend_on_the_sample_not_on_the_layout(size: int) -> None:
    split = split_of(50)
    for rank in range(size):
        for (batch,) in train(shard=Shard(rank, size), augmentation=BOTH).batches(epoch=5):
            for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
                original = torch.from_numpy(split.images[index])
                assert torch.equal(image, augment(original, 42, 5, index, BOTH))


def test_impossible_batches_are_refused() -> None:
    with pytest.raises(DataError, match=r"--global-batch-size 64.*only 50 images"):
        train(global_batch_size=64)
    with pytest.raises(ValueError, match="no multiple"):
        train(shard=Shard(0, 3))
    with pytest.raises(ValueError, match="no multiple"):
        train(accumulation=0)
    for step in (-1, 7):
        with pytest.raises(ValueError, match="first_step"):
            train().batches(epoch=0, first_step=step)
    for rank, size in [(2, 2), (-1, 2), (0, 0)]:
        with pytest.raises(ValueError, match="shard"):
            Shard(rank, size)


class Unreadable:
    """Images of which only the shape may be asked for."""

    shape = (50, 3, 6, 5)


@pytest.mark.parametrize("mixing", [Mixing(), Mixing(cutmix=1.0)])
def test_who_needs_no_pixels_reads_none_and_gets_the_rest(mixing: Mixing) -> None:
    """A later pipeline stage."""
    reader = train(augmentation=BOTH, mixing=mixing)
    other = replace(reader, split=replace(reader.split, images=Unreadable()), pixels=False)
    for (a,), (b,) in zip(reader.batches(epoch=1), other.batches(epoch=1), strict=True):
        assert len(a.images) == len(b.images) and not b.images.numel()
        assert torch.equal(a.labels, b.labels) and torch.equal(a.indices, b.indices)
        assert a.mix is None or (b.mix is not None and a.mix.draw == b.mix.draw)
    ours = EvalBatches(split_of(50), 8, ONE).batches()
    theirs = EvalBatches(other.split, 8, ONE, pixels=False).batches()
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(ours, theirs, strict=True))


# --- Evaluation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 8, 16])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 5, 129, 133])
def test_every_sample_is_evaluated_exactly_once(count: int, size: int, batch_size: int) -> None:
    split = split_of(count)
    seen: Counter[int] = Counter()
    for rank in range(size):
        shard = EvalBatches(split, batch_size, Shard(rank, size))
        batches = list(shard.batches())
        assert len(batches) == shard.num_batches == -(-count // (batch_size * size))
        for number, batch in enumerate(batches):
            assert batch.images.shape == (batch_size, 3, 6, 5)
            padding = batch.indices == -1
            real = batch.indices[~padding]
            assert np.array_equal(batch.images[~padding].numpy(), split.images[real.numpy()])
            assert torch.equal(batch.labels, (batch.indices * 10).masked_fill(padding, -100))
            start = (number * size + rank) * batch_size
            expected = [i if i < count else -1 for i in range(start, start + batch_size)]
            assert batch.indices.tolist() == expected
            seen.update(batch.indices[~padding].tolist())
    assert seen == Counter(range(count))


def test_evaluation_is_the_same_with_workers() -> None:
    alone, helped = (EvalBatches(split_of(13), 4, ONE, num_workers=n) for n in (0, 2))
    assert all(same(a, b) for a, b in zip(alone.batches(), helped.batches(), strict=True))


def test_an_evaluation_batch_has_rows() -> None:
    with pytest.raises(ValueError, match="batch size"):
        EvalBatches(split_of(3), 0, ONE)
