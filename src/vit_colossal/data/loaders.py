"""Batches whose content is a function of (seed, epoch, step), however many processes share it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vit_colossal.data.mixing import Draw, Mix, Mixing
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.trainer_order import trainer_steps
from vit_colossal.data.transforms import Augmentation, augment, stable_seed
from vit_colossal.errors import DataError
from vit_colossal.plan.trainer_cut import TrainerCut

IGNORED_LABEL = -100
PADDING_INDEX = -1


class Batch(NamedTuple):
    """Samples of one process for one forward pass.

    Attributes:
        images: uint8 [b, 3, H, W].
        labels: int64 [b]; -100 marks padding.
        indices: int64 [b], the samples' places in the split; -1 marks padding.
        mix: how they are to be mixed, if they are; ``images`` and ``labels`` are unmixed.
        step_size: images of the whole step, where its batches may differ in size; None where all
            batches are alike.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    mix: Mix | None = None
    step_size: int | None = None


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


def epoch_order(num_samples: int, seed: int, epoch: int) -> torch.LongTensor:
    """The order of one epoch's samples.

    Args:
        num_samples: Size N of the split.
        seed: The run's seed.
        epoch: Epoch, from 0.

    Returns:
        A permutation of 0 to N - 1, int64 [N].
    """
    generator = torch.Generator().manual_seed(stable_seed("order", seed, epoch))
    return torch.randperm(num_samples, generator=generator)  # type: ignore[return-value]


@dataclass(frozen=True)
class TrainBatches:
    """A split's training batches, as one process sees them.

    Step s of an epoch trains on ``order[s * G : (s + 1) * G]`` for the global batch size G. Its
    accumulation slices are contiguous parts of that, the shards contiguous parts of a slice. The
    samples left over by the last full batch are dropped; shuffling drops others each epoch.

    Attributes:
        split: The decoded samples.
        global_batch_size: Samples per optimizer step, over all processes and slices.
        accumulation: Slices (forward and backward passes) per optimizer step.
        shard: This process's part.
        seed: Chooses order and augmentation, together with the epoch.
        augmentation: Random changes of the images.
        mixing: Mixup or CutMix within the global batch.
        shuffle: Whether to shuffle; otherwise the split's own order.
        num_workers: Loader processes; never changes a value.
        pin_memory: Whether batches lie in page-locked memory.
        pixels: Whether this process reads the images; without, they have no channels.
        trainer: Sizes of the Trainer run whose batches these are, in place of the above.
        full: Whether short batches of such a run are padded to ``batch_size`` rows, as a pipeline
            wants them; otherwise only until the shards are equal.
    """

    split: CachedSplit
    global_batch_size: int
    accumulation: int
    shard: Shard
    seed: int
    augmentation: Augmentation
    mixing: Mixing = field(default_factory=Mixing)
    shuffle: bool = True
    num_workers: int = 0
    pin_memory: bool = False
    pixels: bool = True
    trainer: TrainerCut | None = None
    full: bool = False

    def __post_init__(self) -> None:
        parts = self.accumulation * self.shard.size
        if self.global_batch_size < 1 or parts < 1 or self.global_batch_size % parts:
            raise ValueError(
                f"global batch {self.global_batch_size} is no multiple of {self.accumulation} "
                f"accumulation slices x {self.shard.size} shards"
            )
        if len(self.split) < self.global_batch_size:
            raise DataError(
                [
                    f"--global-batch-size {self.global_batch_size}: the training split has only "
                    f"{len(self.split)} images; lower it"
                ]
            )

    @property
    def batch_size(self) -> int:
        """Rows b of each batch that this process gets."""
        return self.global_batch_size // (self.accumulation * self.shard.size)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch."""
        if self.trainer is not None:
            return self.trainer.steps_per_epoch(len(self.split))
        return len(self.split) // self.global_batch_size

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """Iterate over one epoch, or over the rest of one.

        Args:
            epoch: Epoch, from 0.
            first_step: Steps of this epoch that are already done.

        Yields:
            For each optimizer step ``accumulation`` batches of ``batch_size`` rows; in Trainer's
            order fewer and shorter ones at the end of an epoch.

        Raises:
            ValueError: ``first_step`` lies outside of the epoch.
        """
        if not 0 <= first_step <= self.steps_per_epoch:
            raise ValueError(f"first_step {first_step} of {self.steps_per_epoch}")
        cut = self.trainer
        rows = self._rows(epoch) if cut is None else self._trainer_rows(epoch, cut)
        return self._batches(rows[first_step:], epoch, first_step)

    def _batches(
        self, steps: list[list[list[int]]], epoch: int, first_step: int
    ) -> Iterator[list[Batch]]:
        """Load what :meth:`_rows` names."""
        samples = _Samples(self.split, self.augmentation, self.seed, epoch, self.pixels)
        rows = [batch for step in steps for batch in step]
        loader = iter(_loader(samples, rows, self.num_workers, self.pin_memory))
        for step, places in enumerate(steps, start=first_step):
            batches = [next(loader) for _ in places]
            if self.mixing.active:
                height, width = batches[0].images.shape[-2:]
                draw = self.mixing.draw(self.seed, epoch, step, (height, width))
                batches = [_mixed(batch, draw) for batch in batches]
            if self.trainer is not None:
                last = step == self.steps_per_epoch - 1
                size = self.trainer.last_step(len(self.split)) if last else self.global_batch_size
                batches = [batch._replace(step_size=size) for batch in batches]
            yield batches

    def _rows(self, epoch: int) -> list[list[list[int]]]:
        """This shard's samples: for each step, for each batch; with one more to mix in front."""
        count = len(self.split)
        order = epoch_order(count, self.seed, epoch) if self.shuffle else torch.arange(count)
        used = order[: self.steps_per_epoch * self.global_batch_size]
        steps = used.view(self.steps_per_epoch, self.global_batch_size)
        layout = (self.steps_per_epoch, self.accumulation, self.shard.size, self.batch_size)
        mine = steps.view(layout)[:, :, self.shard.rank]
        if self.mixing.active:
            before = steps.roll(1, dims=1).view(layout)[:, :, self.shard.rank, :1]
            mine = torch.cat([before, mine], dim=-1)
        rows: list[list[list[int]]] = mine.tolist()
        return rows

    def _trainer_rows(self, epoch: int, cut: TrainerCut) -> list[list[list[int]]]:
        """The same of a Trainer run's batches; row -1 is padding."""
        steps = []
        for slices in trainer_steps(len(self.split), self.seed, epoch, cut):
            # A pipeline takes all of a step as one batch.
            whole = slices if self.accumulation > 1 else [torch.cat(slices)]
            steps.append([self._share(rows).tolist() for rows in whole])
        return steps

    def _share(self, rows: Tensor) -> Tensor:
        """This shard's contiguous part of a slice, int64 [b]."""
        size = self.batch_size if self.full else -(-len(rows) // self.shard.size)
        padded = rows.new_full((self.shard.size * size,), PADDING_INDEX)
        padded[: len(rows)] = rows
        return padded.view(self.shard.size, size)[self.shard.rank]


def _mixed(batch: Batch, draw: Draw) -> Batch:
    """Take a batch of which row 0 is only there to be mixed into row 1."""
    images, labels, indices, _, _ = batch
    return Batch(images[1:], labels[1:], indices[1:], Mix(images[:1], labels[:-1], draw))


@dataclass(frozen=True)
class EvalBatches:
    """A split's evaluation batches: over all shards every sample exactly once.

    Every shard gets the same number of batches, each with exactly ``batch_size`` rows, as
    collectives and pipeline schedules need. Block k of ``batch_size * shard.size`` samples is
    dealt to the shards in contiguous parts; rows beyond the split repeat the pixels of sample 0
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
        samples = _Samples(self.split, Augmentation(), seed=0, epoch=0, pixels=self.pixels)
        return iter(_loader(samples, mine.tolist(), self.num_workers, self.pin_memory))


@dataclass(frozen=True)
class _Samples(Dataset[Batch]):
    """The samples of one epoch; made anew for each, so no worker can hold an old epoch."""

    split: CachedSplit
    augmentation: Augmentation
    seed: int
    epoch: int
    pixels: bool

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, rows: list[int]) -> Batch:
        """One gather for a whole batch; row -1 is padding."""
        indices = torch.tensor(rows, dtype=torch.int64)
        padding = indices == PADDING_INDEX
        places = indices.masked_fill(padding, 0).numpy()
        labels = torch.from_numpy(self.split.labels[places]).masked_fill(padding, IGNORED_LABEL)
        if not self.pixels:
            shape = (len(rows), 0, *self.split.images.shape[2:])
            return Batch(torch.empty(shape, dtype=torch.uint8), labels, indices)
        images = torch.from_numpy(np.asarray(self.split.images[places]))
        if self.augmentation.active:
            keyed = zip(images, rows, strict=True)
            images = torch.stack(
                [augment(x, self.seed, self.epoch, row, self.augmentation) for x, row in keyed]
            )
        return Batch(images, labels, indices)


def _loader(
    samples: _Samples, rows: list[list[int]], num_workers: int, pin_memory: bool
) -> DataLoader:
    """A loader that yields one batch for each line of ``rows``."""
    return DataLoader(
        samples,
        batch_sampler=rows,
        collate_fn=_as_is,
        num_workers=num_workers,
        pin_memory=pin_memory,
        # Its own generator: otherwise each loader draws from the global one, and moves dropout.
        generator=torch.Generator(),
    )


def _as_is(batch: Any) -> Any:
    return batch
