"""In which order an epoch takes its samples, and which of them each optimizer step sees.

Functions of (seed, epoch) and the split alone, so that they are the same for any number of
processes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vit_colossal.data.transforms import stable_seed
from vit_colossal.plan.epoch_cut import EpochCut, TrainerCut


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


def trainer_order(num_samples: int, seed: int, epoch: int, cut: TrainerCut) -> Tensor:
    """The order of transformers' Trainer, int64 [N and those that it repeats].

    Read from transformers 5.24 (``Trainer._run_epoch`` and ``get_batch_samples``) and accelerate
    1.15 (``SeedableRandomSampler`` and ``BatchSamplerShard``), with what they do unless told
    otherwise: ``even_batches`` on, ``split_batches`` and ``dispatch_batches`` off, no
    ``data_seed``. An epoch is the permutation that a generator with ``seed + epoch`` draws. On
    several processes the last slice is filled with the epoch's first samples, on one it is short.

    Args:
        num_samples: Size N of the split.
        seed: The run's seed.
        epoch: Epoch, from 0.
        cut: Sizes of the imitated run.
    """
    generator = torch.Generator().manual_seed(seed + epoch)
    order = torch.randperm(num_samples, generator=generator)
    return order[torch.arange(cut.samples(num_samples)) % num_samples]


def balanced_order(labels: np.ndarray, seed: int, epoch: int) -> Tensor:
    """Samples drawn with replacement, every label that occurs as often as any other.

    Each draw takes a label and then one of its samples, both uniformly: the same as weighing each
    sample with the inverse of its label's count, as ``WeightedRandomSampler`` is used for.

    Args:
        labels: int64 [N].
        seed: The run's seed.
        epoch: Epoch, from 0.

    Returns:
        N places in the split, int64 [N].
    """
    generator = torch.Generator().manual_seed(stable_seed("balanced order", seed, epoch))
    by_label = torch.from_numpy(np.argsort(labels, kind="stable"))
    _, counts = torch.from_numpy(np.asarray(labels)).unique(return_counts=True)
    drawn = torch.randint(len(counts), (len(labels),), generator=generator)
    share = torch.rand(len(labels), dtype=torch.float64, generator=generator)
    first = counts.cumsum(0) - counts
    return by_label[first[drawn] + (share * counts[drawn]).long()]


def repetitions(order: Tensor) -> Tensor:
    """How often each entry's sample came before, int64 [N]: 0 for its first time."""
    by_sample = order.argsort(stable=True)
    _, counts = order.unique(return_counts=True)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    found = torch.empty_like(order)
    found[by_sample] = torch.arange(len(order)) - first
    return found


def steps_of(order: Tensor, cut: EpochCut) -> list[list[Tensor]]:
    """Which entries of an epoch's order each of its steps sees.

    Args:
        order: int64 [N].
        cut: how the epoch is cut.

    Returns:
        For each step its slices, int64 [slice_size]; at the end fewer and a shorter one, where the
        last step trains.
    """
    if not cut.keeps_last:
        order = order[: len(order) // cut.global_batch * cut.global_batch]
    slices, size = order.split(cut.slice_size) if len(order) else (), cut.accumulation
    return [list(slices[first : first + size]) for first in range(0, len(slices), size)]
