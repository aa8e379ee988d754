"""The batches that transformers' Trainer trains on, for ``--order transformers``.

Read from transformers 5.24 (``Trainer._run_epoch`` and ``get_batch_samples``) and accelerate 1.15
(``SeedableRandomSampler`` and ``BatchSamplerShard``), with what they do unless told otherwise:
``even_batches`` on, ``split_batches`` and ``dispatch_batches`` off, no ``data_seed``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vit_colossal.plan.trainer_cut import TrainerCut


def trainer_steps(num_samples: int, seed: int, epoch: int, cut: TrainerCut) -> list[list[Tensor]]:
    """Which samples each update of an epoch sees.

    An epoch is the permutation that a generator with ``seed + epoch`` draws. On several processes
    the last slice is filled with the epoch's first samples, on one it is short.

    Args:
        num_samples: size of the training split.
        seed: of the run.
        epoch: from 0.
        cut: sizes of the imitated run.

    Returns:
        For each update its slices, int64 [slice_size]; the last one may be shorter.
    """
    generator = torch.Generator().manual_seed(seed + epoch)
    order = torch.randperm(num_samples, generator=generator)
    order = order[torch.arange(num_samples + cut.repeated(num_samples)) % num_samples]
    slices, size = order.split(cut.slice_size), cut.accumulation
    return [list(slices[first : first + size]) for first in range(0, len(slices), size)]
