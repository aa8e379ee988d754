"""Mixup, CutMix and the rest of the augmentation: torchvision's, and the same in every layout."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot
from torchvision.transforms import v2

from vit_colossal.data.loaders import Shard, TrainBatches
from vit_colossal.data.mixing import Box, Draw, Mixing, mix_pixels
from vit_colossal.data.order import epoch_order
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.samples import Batch
from vit_colossal.data.transforms import Augmentation, normalize, seeded, stable_seed
from vit_colossal.model.loss import criterion
from vit_colossal.model.preprocessing import Preprocessing
from vit_colossal.plan.epoch_cut import EpochCut

GLOBAL, COUNT, LABELS = 12, 40, 5
EVERYTHING = Augmentation(
    random_resized_crop=True,
    horizontal_flip=True,
    auto="randaugment",
    erasing=0.5,
    fill=(124, 116, 104),
)
BOTH = Mixing(mixup=0.8, cutmix=1.0)


def split_of(count: int = COUNT) -> CachedSplit:
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (count, 3, 10, 7)).astype(np.uint8)
    return CachedSplit(images, random.randint(0, LABELS, count).astype(np.int64))


def batches(size: int = 1, rank: int = 0, **options: object) -> TrainBatches:
    settings = {"accumulation": 1, "augmentation": EVERYTHING, "mixing": BOTH} | options
    cut = EpochCut(GLOBAL // settings["accumulation"], settings["accumulation"])
    return TrainBatches(split_of(), cut, shard=Shard(rank, size), seed=42, **settings)


def pixels(batch: Batch) -> torch.Tensor:
    """As a step computes them."""
    half = Preprocessing((0, 0), mean=(0.5, 0.4, 0.3), std=(0.5, 0.6, 0.7))
    assert batch.mix is not None
    return mix_pixels(normalize(batch.images, half), normalize(batch.mix.image, half), batch.mix[2])


def global_batches(
    size: int, accumulation: int, workers: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, Draw]]:
    """Pixels, labels, partners' labels and the draw of each step, put together from all shards."""
    parts = [
        batches(size, rank, accumulation=accumulation, num_workers=workers).batches(epoch=1)
        for rank in range(size)
    ]
    for step in zip(*parts, strict=True):
        ordered = [rank[part] for part in range(accumulation) for rank in step]
        draws = {batch.mix.draw for batch in ordered if batch.mix}
        assert len(draws) == 1
        yield (
            torch.cat([pixels(batch) for batch in ordered]),
            torch.cat([batch.labels for batch in ordered]),
            torch.cat([batch.mix.labels for batch in ordered if batch.mix]),
            draws.pop(),
        )


@pytest.fixture(scope="module")
def alone() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, Draw]]:
    return list(global_batches(1, 1, 0))


@pytest.mark.parametrize(
    ("size", "accumulation", "workers"),
    [(1, 2, 0), (2, 1, 0), (2, 3, 0), (4, 1, 0), (4, 3, 0), (12, 1, 0), (1, 1, 2), (2, 2, 1)],
)
def test_mixed_pixels_and_labels_are_the_same_in_every_layout(
    size: int, accumulation: int, workers: int, alone: list[tuple[torch.Tensor, ...]]
) -> None:
    found = list(global_batches(size, accumulation, workers))
    assert len(found) == len(alone) == COUNT // GLOBAL
    for ours, expected in zip(found, alone, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours[:3], expected[:3], strict=True))
        assert ours[3] == expected[3]


def test_a_run_continues_with_the_same_mixture() -> None:
    whole, rest = list(batches().batches(2)), list(batches().batches(2, first_step=1))
    for (expected,), (found,) in zip(whole[1:], rest, strict=True):
        assert torch.equal(pixels(expected), pixels(found))
        assert expected.mix is not None and found.mix is not None
        assert expected.mix.draw == found.mix.draw


def test_partners_are_the_samples_before_in_the_global_batch() -> None:
    order = epoch_order(COUNT, 42, 3).tolist()
    options = {"augmentation": Augmentation(), "accumulation": 2}
    split = split_of()
    for number, step in enumerate(batches(2, 1, **options).batches(3)):
        whole = order[number * GLOBAL : (number + 1) * GLOBAL]
        for part, batch in enumerate(step):
            assert batch.mix is not None
            start = part * 6 + 3  # the second shard's three rows of this slice
            before = [whole[row - 1] for row in range(start, start + 3)]
            assert batch.indices.tolist() == whole[start : start + 3]
            assert batch.mix.labels.tolist() == split.labels[before].tolist()
            assert np.array_equal(batch.mix.image[0].numpy(), split.images[before[0]])


def test_mixture_is_torchvisions() -> None:
    images = torch.randn(GLOBAL, 3, 10, 7)
    labels = torch.arange(GLOBAL) % LABELS
    for mixing, transform in (
        (Mixing(mixup=0.4), v2.MixUp(alpha=0.4, num_classes=LABELS)),
        (Mixing(cutmix=1.0), v2.CutMix(alpha=1.0, num_classes=LABELS)),
    ):
        for step in range(20):
            with seeded(stable_seed("mix", 7, 1, step)):
                expected, soft = transform(images, labels)
            draw = mixing.draw(7, 1, step, (10, 7))
            mixed = mix_pixels(images.clone(), images[-1:], draw)
            assert torch.equal(mixed, expected) or torch.allclose(mixed, expected, atol=1e-6)
            logits = torch.randn(GLOBAL, LABELS)
            loss = criterion(logits, labels, 0.0, labels.roll(1), draw.weight)
            torch.testing.assert_close(loss, cross_entropy(logits, soft))


def test_both_kinds_take_turns() -> None:
    draws = [BOTH.draw(42, 0, step, (224, 224)) for step in range(400)]
    cut = [draw for draw in draws if draw.box is not None]
    assert 160 < len(cut) < 240
    assert len({draw.weight for draw in draws if draw.box is None}) == 400 - len(cut)
    for draw in cut:
        top, left, bottom, right = draw.box or Box(0, 0, 0, 0)
        assert draw.weight == 1 - (bottom - top) * (right - left) / 224**2
    assert draws != [BOTH.draw(42, 1, step, (224, 224)) for step in range(400)]


def test_smoothed_and_mixed_loss_is_that_of_soft_labels() -> None:
    logits = torch.randn(6, LABELS, dtype=torch.bfloat16)
    labels, partners = torch.randint(LABELS, (2, 6))
    assert criterion(logits, labels).equal(cross_entropy(logits.float(), labels))
    hard = [one_hot(values, LABELS).float() for values in (labels, partners)]
    soft = 0.9 * (0.3 * hard[0] + 0.7 * hard[1]) + 0.1 / LABELS
    loss = criterion(logits, labels, 0.1, partners, 0.3)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(logits.float(), soft))


def test_nothing_touches_the_global_generator() -> None:
    before = torch.get_rng_state()
    list(batches().batches(0))
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(KeyError), seeded(1):
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
