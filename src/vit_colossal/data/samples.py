"""Batches of a split's samples, read and augmented, in loader processes or in this one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vit_colossal.data.mixing import Mix
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.transforms import Augmentation, augment

IGNORED_LABEL = -100
PADDING_INDEX = -1


class Batch(NamedTuple):
    """Samples of one process for one forward pass.

    Attributes:
        images: uint8 [b, C, H, W].
        labels: int64 [b]; -100 marks padding.
        indices: int64 [b], the samples' places in the split; -1 marks padding.
        mix: how they are to be mixed, if they are; ``images`` and ``labels`` are unmixed.
        total: what the sum of the losses is divided by: the images of the whole step, or their
            weights, or those of the slice times the slices where these count alike; None where the
            mean of each batch says the same, as all are alike.
        places: int64 [b], where the samples stand in the global batch; 0 for padding.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    mix: Mix | None = None
    total: float | None = None
    places: Tensor | None = None


@dataclass(frozen=True)
class Samples(Dataset[Batch]):
    """The samples of one epoch; made anew for each, so no worker can hold an old epoch.

    Sample i of N is number i; where an epoch takes it again, i + N, then i + 2 N and so on, so that
    each time it is augmented in a way of its own.
    """

    split: CachedSplit
    augmentation: Augmentation
    seed: int
    epoch: int
    pixels: bool

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, rows: list[int]) -> Batch:
        """One gather for a whole batch; row -1 is padding, with the pixels of a sample before."""
        numbers = torch.tensor(rows, dtype=torch.int64)
        padding = numbers == PADDING_INDEX
        indices = (numbers % len(self.split)).masked_fill(padding, PADDING_INDEX)
        places = indices.masked_fill(padding, 0).numpy()
        labels = torch.from_numpy(self.split.labels[places]).masked_fill(padding, IGNORED_LABEL)
        if not self.pixels:
            shape = (len(rows), 0, *self.split.images.shape[2:])
            return Batch(torch.empty(shape, dtype=torch.uint8), labels, indices)
        return Batch(self._images(numbers, padding), labels, indices)

    def _images(self, numbers: Tensor, padding: Tensor) -> Tensor:
        """uint8 [b, C, H, W]; what is padded is read and changed once at most."""
        read = numbers[~padding] if not padding.all() else torch.zeros(1, dtype=torch.int64)
        images = torch.from_numpy(np.asarray(self.split.images[(read % len(self)).numpy()]))
        if self.augmentation.active:
            keyed = zip(images, read.tolist(), strict=True)
            images = torch.stack(
                [augment(x, self.seed, self.epoch, row, self.augmentation) for x, row in keyed]
            )
        if not padding.any():
            return images
        return images[((~padding).cumsum(0) - 1).clamp(min=0)]


def load(
    samples: Samples, rows: Iterable[list[int]], num_workers: int, pin_memory: bool
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
