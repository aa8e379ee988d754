"""The norm of all gradients, rounded as ``torch.nn.utils.clip_grad_norm_`` rounds it.

It is the norm of the tensors' norms in the model's order. Who has whole tensors, on whichever rank,
gets the same bits; from the norms of shards no way of adding up does (0 of 60 sets of gradients).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist


def norm_of(gradient: torch.Tensor) -> torch.Tensor:
    """The norm of one whole gradient, by the implementation that PyTorch clips with."""
    return torch._foreach_norm([gradient])[0]


def total_norm(norms: Sequence[torch.Tensor]) -> torch.Tensor:
    """The norm of the norms of all gradients, which are given in the model's order."""
    return torch.linalg.vector_norm(torch.stack(list(norms)))


def total_norm_of_stages(
    gradients: Mapping[str, torch.Tensor], names: Sequence[str], stages: dist.ProcessGroup
) -> torch.Tensor:
    """The norm over all stages of a pipeline; every rank of it has to call this.

    Args:
        gradients: of this stage's parameters, by name.
        names: of all parameters, in the model's order.
        stages: the ranks of the pipeline.
    """
    place = {name: index for index, name in enumerate(names)}
    # Parameters that are not trained have no norm, which is not the same as 0: the sum of squares
    # would be cut into vectors elsewhere.
    device = next(iter(gradients.values())).device if gradients else torch.device("cpu")
    norms, present = torch.zeros(2, len(names), device=device)
    for name, gradient in gradients.items():
        norms[place[name]], present[place[name]] = norm_of(gradient), 1
    every = torch.stack([norms, present])
    dist.all_reduce(every, group=stages)  # one stage has each, the others add 0
    norms, present = every
    return torch.linalg.vector_norm(norms[present > 0])
