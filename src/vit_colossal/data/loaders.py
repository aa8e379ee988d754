"""Batches whose content is a function of (seed, epoch, step), however many processes share it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from vit_colossal.data.mixing import Draw, Mix, Mixing
from vit_colossal.data.order import (
    balanced_order,
    epoch_order,
    repetitions,
    steps_of,
    trainer_order,
)
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.samples import IGNORED_LABEL, PADDING_INDEX, Batch, Samples, load
from vit_colossal.data.transforms import Augmentation
from vit_colossal.errors import DataError
from vit_colossal.plan.epoch_cut import EpochCut, TrainerCut


@dataclass(frozen=True)
class Shard:
    """This process's part of the data: its data-parallel coordinate.

    All tensor- and pipeline-parallel peers of one replica have the same shard.

    Attributes:
        rank: Which part, from 0.
        size: How many parts there are.
    """

    rank: int
    size: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"shard rank {self.rank} of {self.size}")


class _Part(NamedTuple):
    """What one shard gets of a slice.

    Attributes:
        rows: samples by their numbers (see :class:`Samples`); to be mixed, one more in front.
        places: int64 [b], where they stand in the global batch; 0 for padding.
    """

    rows: list[int]
    places: Tensor


@dataclass(frozen=True)
class TrainBatches:
    """A split's training batches, as one process sees them.

    Step s of an epoch trains on ``order[s * G : (s + 1) * G]`` for the global batch size G. Its
    accumulation slices are contiguous parts of that, the shards contiguous parts of a slice. In a
    smaller last step there are fewer slices, and the shards are padded until they are equal.

    Attributes:
        split: The decoded samples.
        cut: Sizes of the steps, and the order of Trainer where it is Trainer's.
        accumulation: Slices that a step keeps apart; 1 takes all of a step as one batch, as a
            pipeline does.
        shard: This process's part.
        seed: Chooses order and augmentation, together with the epoch.
        augmentation: Random changes of the images.
        mixing: Mixup or CutMix within the global batch.
        shuffle: Whether to shuffle; otherwise the split's own order.
        balanced: Draw with replacement, each label as often as any other, rather than shuffle.
        class_weights: fp32 [labels], what the loss of an image of each counts; None for 1.
        num_workers: Loader processes; never changes a value.
        pin_memory: Whether batches lie in page-locked memory.
        pixels: Whether this process reads the images; without, they have no channels.
        full: Whether short batches are padded to ``batch_size`` rows, as a pipeline and compiled
            layers want them; otherwise only until the shards are equal.
        averages_slices: Whether each slice of a step counts alike, rather than each image.
    """

    split: CachedSplit
    cut: EpochCut
    accumulation: int
    shard: Shard
    seed: int
    augmentation: Augmentation
    mixing: Mixing = field(default_factory=Mixing)
    shuffle: bool = True
    balanced: bool = False
    class_weights: Tensor | None = None
    num_workers: int = 0
    pin_memory: bool = False
    pixels: bool = True
    full: bool = False
    averages_slices: bool = False

    def __post_init__(self) -> None:
        parts = self.accumulation * self.shard.size
        size = self.cut.global_batch
        if size < 1 or parts < 1 or size % parts:
            raise ValueError(
                f"global batch {size} is no multiple of {self.accumulation} accumulation slices x "
                f"{self.shard.size} shards"
            )
        if self.accumulation not in (1, self.cut.accumulation):
            raise ValueError(f"{self.accumulation} slices of {self.cut.accumulation}")
        if self.steps_per_epoch < 1:
            raise DataError(
                [
                    f"--global-batch-size {size}: the training split has only {len(self.split)} "
                    "images; lower it, or add --last-batch train"
                ]
            )

    @property
    def batch_size(self) -> int:
        """Rows b of each batch that this process gets."""
        return self.cut.global_batch // (self.accumulation * self.shard.size)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch."""
        return self.cut.steps_per_epoch(len(self.split))

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """Iterate over one epoch, or over the rest of one.

        Args:
            epoch: Epoch, from 0.
            first_step: Steps of this epoch that are already done.

        Yields:
            For each optimizer step ``accumulation`` batches of ``batch_size`` rows; fewer and
            shorter ones where the last step of an epoch is smaller.

        Raises:
            ValueError: ``first_step`` lies outside of the epoch.
        """
        if not 0 <= first_step <= self.steps_per_epoch:
            raise ValueError(f"first_step {first_step} of {self.steps_per_epoch}")
        steps = steps_of(self._order(epoch), self.cut)[first_step:]
        return self._batches(steps, epoch, first_step)

    def _batches(
        self, steps: list[list[Tensor]], epoch: int, first_step: int
    ) -> Iterator[list[Batch]]:
        """Load this shard's part of each step."""
        samples = Samples(self.split, self.augmentation, self.seed, epoch, self.pixels)
        asked_for: deque[list[_Part]] = deque()

        def rows() -> Iterator[list[int]]:
            """As far as loader processes are ahead: a million images take seconds to deal out."""
            for slices in steps:
                asked_for.append(self._parts(slices))
                yield from (part.rows for part in asked_for[-1])

        loader = iter(load(samples, rows(), self.num_workers, self.pin_memory))
        for step, slices in enumerate(steps, start=first_step):
            count = len(slices) if self.accumulation > 1 else 1
            batches = [next(loader) for _ in range(count)]
            mine = asked_for.popleft()
            if self.mixing.active:
                height, width = batches[0].images.shape[-2:]
                draw = self.mixing.draw(self.seed, epoch, step, (height, width))
                batches = [_mixed(batch, draw) for batch in batches]
            totals = self._totals(slices, count)
            yield [
                batch._replace(total=total, places=part.places)
                for batch, part, total in zip(batches, mine, totals, strict=True)
            ]

    def _order(self, epoch: int) -> Tensor:
        """The numbers of an epoch's samples, in order."""
        count = len(self.split)
        if isinstance(self.cut, TrainerCut):
            return trainer_order(count, self.seed, epoch, self.cut)
        if self.balanced:
            order = balanced_order(self.split.labels, self.seed, epoch)
            return order + repetitions(order) * count
        return epoch_order(count, self.seed, epoch) if self.shuffle else torch.arange(count)

    def _parts(self, slices: list[Tensor]) -> list[_Part]:
        """This shard's contiguous part of each slice of a step."""
        whole, first, parts = torch.cat(slices), 0, []
        for rows in slices if self.accumulation > 1 else [whole]:
            places = self._share(torch.arange(first, first + len(rows)))
            mine = whole[places].masked_fill(places == PADDING_INDEX, PADDING_INDEX)
            if self.mixing.active:
                # Of the first sample the step's last, be it a whole step or not.
                before = whole[places[:1].clamp(min=0) - 1]
                mine = torch.cat([before, mine])
            parts.append(_Part(mine.tolist(), places.clamp(min=0)))
            first += len(rows)
        return parts

    def _share(self, places: Tensor) -> Tensor:
        """This shard's contiguous part of a slice, int64 [b]."""
        size = self.batch_size if self.full else -(-len(places) // self.shard.size)
        padded = places.new_full((self.shard.size * size,), PADDING_INDEX)
        padded[: len(places)] = places
        return padded.view(self.shard.size, size)[self.shard.rank]

    def _totals(self, slices: list[Tensor], count: int) -> Sequence[float | None]:
        """What the losses of each of a step's ``count`` batches are divided by."""
        if self.averages_slices:
            return [float(len(rows) * count) for rows in slices]
        return [self._total(torch.cat(slices))] * count

    def _total(self, rows: Tensor) -> float | None:
        """What the losses of a step's samples are divided by; see :class:`Batch`."""
        if self.class_weights is not None:
            labels = torch.from_numpy(self.split.labels[(rows % len(self.split)).numpy()])
            return float(self.class_weights[labels].double().sum())
        if isinstance(self.cut, TrainerCut) or len(rows) < self.cut.global_batch:
            return float(len(rows))
        return None


def _mixed(batch: Batch, draw: Draw) -> Batch:
    """Take a batch of which row 0 is only there to be mixed into row 1."""
    images, labels, indices = batch[:3]
    partners = labels[:-1].masked_fill(labels[1:] == IGNORED_LABEL, IGNORED_LABEL)
    return Batch(images[1:], labels[1:], indices[1:], Mix(images[:1], partners, draw))


@dataclass(frozen=True)
class EvalBatches:
    """A split's evaluation batches: over all shards every sample exactly once.

    Every shard gets the same number of batches, each with exactly ``batch_size`` rows, as
    collectives and pipeline schedules need. Block k of ``batch_size * shard.size`` samples is
    dealt to the shards in contiguous parts; rows beyond the split repeat pixels of another one
    under label -100 and index -1.

    Attributes:
        split: The decoded samples.
        batch_size: Rows per batch of one process.
        shard: This process's part.
        num_workers: Loader processes; never changes a value.
        pin_memory: Whether batches lie in page-locked memory.
        pixels: Whether this process reads the images; without, they have no channels.
    """

    split: CachedSplit
    batch_size: int
    shard: Shard
    num_workers: int = 0
    pin_memory: bool = False
    pixels: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch size {self.batch_size}")

    @property
    def num_batches(self) -> int:
        """Batches of every shard."""
        return -(-len(self.split) // (self.batch_size * self.shard.size))

    def batches(self) -> Iterator[Batch]:
        """Iterate over this shard's part of the split.

        Returns:
            ``num_batches`` batches.
        """
        layout = (self.num_batches, self.shard.size, self.batch_size)
        rows = torch.full((self.num_batches * self.shard.size * self.batch_size,), PADDING_INDEX)
        rows[: len(self.split)] = torch.arange(len(self.split))
        mine = rows.view(layout)[:, self.shard.rank]
        samples = Samples(self.split, Augmentation(), seed=0, epoch=0, pixels=self.pixels)
        return iter(load(samples, mine.tolist(), self.num_workers, self.pin_memory))
