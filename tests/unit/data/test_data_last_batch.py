"""The last, smaller batch; balanced draws and weights: the same, however they are dealt out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vit_colossal.data.balance import balanced_weights
from vit_colossal.data.loaders import Shard, TrainBatches
from vit_colossal.data.mixing import Mixing
from vit_colossal.data.order import balanced_order, epoch_order, repetitions
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.samples import Batch
from vit_colossal.data.transforms import Augmentation
from vit_colossal.plan.epoch_cut import EpochCut

FLIP = Augmentation(random_resized_crop=True)
MIXING = Mixing(mixup=0.5)
GLOBAL = 12


def split_of(count: int) -> CachedSplit:
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (count, 3, 4, 4)).astype(np.uint8)
    return CachedSplit(images, random.randint(0, 4, count).astype(np.int64))


def last(
    count: int, size: int, accumulation: int, *, full: bool = False, workers: int = 0
) -> list[list[Batch]]:
    """The last step of epoch 2, slice by slice, of each shard."""
    cut = EpochCut(GLOBAL // accumulation, accumulation, keeps_last=True)
    found = []
    for rank in range(size):
        source = TrainBatches(
            *(split_of(count), cut, 1 if full else accumulation, Shard(rank, size), 42, FLIP),
            mixing=MIXING,
            full=full,
            num_workers=workers,
        )
        assert source.steps_per_epoch == -(-count // GLOBAL)
        [*_, step] = source.batches(2, first_step=source.steps_per_epoch - 1)
        found.append(step)
    return found


@pytest.mark.parametrize("count", [1, 5, 25, 29, 35])
@pytest.mark.parametrize(
    ("size", "accumulation", "full"),
    [(1, 1, False), (2, 1, False), (2, 3, False), (4, 1, False), (4, 3, False), (2, 1, True)],
)
def test_the_images_that_are_left_train_once_in_every_layout(
    count: int, size: int, accumulation: int, full: bool
) -> None:
    order = epoch_order(count, 42, 2)[count // GLOBAL * GLOBAL :]
    [[whole]] = last(count, 1, 1)
    assert torch.equal(whole.indices, order)
    shards = last(count, size, accumulation, full=full)
    seen: dict[int, int] = {}
    for step in shards:
        assert len(step) == len(shards[0]) and not (full and len(step[0].labels) != GLOBAL // size)
        for batch in step:
            assert batch.mix is not None and whole.mix is not None and batch.places is not None
            assert batch.total == len(order)
            real = batch.indices >= 0
            assert len(real) == len(batch.places) and set(batch.labels[~real].tolist()) <= {-100}
            assert set(batch.mix.labels[~real].tolist()) <= {-100}
            for row in torch.nonzero(real).flatten().tolist():
                place = int(batch.places[row])
                seen[place] = int(batch.indices[row])
                assert torch.equal(batch.images[row], whole.images[place])
                assert batch.mix.labels[row] == whole.labels[place - 1]
                before = batch.images[row - 1] if row else batch.mix.image[0]
                assert torch.equal(before, whole.images[place - 1])
    assert [seen[place] for place in sorted(seen)] == order.tolist()


def test_loader_processes_pad_alike() -> None:
    for alone, helped in zip(last(29, 2, 1), last(29, 2, 1, workers=1), strict=True):
        for a, b in zip(alone, helped, strict=True):
            assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def test_whole_batches_are_those_of_a_run_that_drops_the_rest() -> None:
    sources = [
        TrainBatches(split_of(29), EpochCut(12, 1, keeps), 1, Shard(0, 1), 42, FLIP)
        for keeps in (True, False)
    ]
    assert [source.steps_per_epoch for source in sources] == [3, 2]
    for (ours,), (theirs,) in zip(*(source.batches(1) for source in sources), strict=False):
        assert torch.equal(ours.images, theirs.images) and ours.total is theirs.total is None


def test_images_are_counted_over_epochs() -> None:
    keeps, drops = EpochCut(4, 2, keeps_last=True), EpochCut(4, 2)
    assert [keeps.trained(19, steps) for steps in (0, 1, 2, 3, 4, 6)] == [0, 8, 16, 19, 27, 38]
    assert [drops.trained(19, steps) for steps in (0, 1, 2, 3)] == [0, 8, 16, 24]
    assert keeps.last_step(19) == 3 and drops.last_step(19) == keeps.last_step(16) == 8


def test_draws_take_every_label_as_often_as_any_other() -> None:
    labels = np.repeat([0, 2, 5], [8000, 1500, 500])  # some labels have no images
    order = balanced_order(labels, 1, 0)
    assert len(order) == len(labels) and torch.equal(order, balanced_order(labels, 1, 0))
    assert not torch.equal(order, balanced_order(labels, 1, 1))
    counts = np.bincount(labels[order.numpy()])
    # Five standard deviations of a binomial count.
    assert counts.nonzero()[0].tolist() == [0, 2, 5] and abs(counts[[0, 2, 5]] - 3333).max() < 236
    # Within a label too: each of the 500 is drawn 6.7 times on average.
    rare = torch.bincount(order)[9500:]
    assert (rare > 0).sum() > 490 and rare.max() < 20


def test_an_image_that_is_drawn_again_is_augmented_in_another_way() -> None:
    order = torch.tensor([3, 1, 3, 3, 0, 1])
    assert repetitions(order).tolist() == [0, 0, 1, 2, 0, 1]
    split = split_of(40)
    cut = EpochCut(GLOBAL, 1, keeps_last=True)
    sources = [
        TrainBatches(split, cut, 1, Shard(rank, size), 42, FLIP, balanced=True)
        for size in (1, 2)
        for rank in range(size)
    ]
    steps = [[batch for [batch] in source.batches(0)] for source in sources]
    indices, images = (torch.cat([getattr(b, n) for b in steps[0]]) for n in ("indices", "images"))
    assert torch.equal(indices, balanced_order(split.labels, 42, 0))
    twice = [index for index in indices.unique().tolist() if (indices == index).sum() > 1]
    assert twice
    for index in twice:
        first, second, *_ = images[indices == index]
        assert not torch.equal(first, second)
    for whole, *halves in zip(*steps, strict=True):
        real = torch.cat([half.images[half.indices >= 0] for half in halves])
        assert torch.equal(real, whole.images)


def test_balanced_weights() -> None:
    """15 images of 3 labels that occur: 5 over the number of the label's own."""
    labels = np.repeat([0, 2, 3], [10, 4, 1])
    assert balanced_weights(labels, 5).tolist() == [0.5, 1, 1.25, 5, 1]


def test_a_weighted_step_is_divided_by_the_weights_of_all_of_its_images() -> None:
    split, weights = split_of(29), torch.tensor([1.0, 2.0, 4.0, 8.0])
    cut = EpochCut(6, 2, keeps_last=True)
    order = epoch_order(29, 42, 0)
    expected = [float(weights[split.labels[rows.numpy()]].sum()) for rows in order.split(12)]
    for rank in range(2):
        source = TrainBatches(split, cut, 2, Shard(rank, 2), 42, FLIP, class_weights=weights)
        steps = list(source.batches(0))
        assert [{batch.total for batch in step} for step in steps] == [{each} for each in expected]
