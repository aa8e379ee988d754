"""Which piece of every parameter, of its fp32 master and of its moments a rank holds.

Each strategy scatters the training state its own way; all of them describe it in this one form, so
that saving, loading and averaging need to know only this form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Part:
    """This rank's piece of one parameter.

    Attributes:
        name: the parameter's published name.
        master: the values that the optimizer updates; flat where ``start`` is not None.
        owner: the tensor under which the optimizer keeps its moments.
        working: the tensor that the model computes with; None where the strategy owns it.
        tp_dim: dimension that tensor parallelism cuts, or None.
        start: first element of this piece in the flattened (tensor-parallel) parameter, where
            data parallelism cuts it; None for the whole, which every replica holds.
        frozen: the optimizer does not know it; ``master`` is then what the model computes with.
    """

    name: str
    master: torch.Tensor
    owner: Any
    working: torch.Tensor | None
    tp_dim: int | None = None
    start: int | None = None
    frozen: bool = False

    def piece_of(self, full: torch.Tensor, tp_index: int, tp: int) -> torch.Tensor:
        """The elements of the plain parameter that belong here, shaped like ``master``."""
        local = full if self.tp_dim is None else full.chunk(tp, dim=self.tp_dim)[tp_index]
        if self.start is None:
            return local
        return local.flatten()[self.start : self.start + self.master.numel()]

    @property
    def has_own_master(self) -> bool:
        """Whether the master lies elsewhere than the weight it is the master of."""
        return self.working is None or self.master.data_ptr() != self.working.data_ptr()


def cut_dimension(local: torch.Size, full: torch.Size) -> int | None:
    """The dimension in which tensor parallelism cut a parameter; None where it is whole."""
    for dimension, (mine, whole) in enumerate(zip(local, full, strict=True)):
        if mine != whole:
            return dimension
    return None
