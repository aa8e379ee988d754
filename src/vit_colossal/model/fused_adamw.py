"""PyTorch's fused AdamW on the CPU, with the same bits for a piece of a tensor as for all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

#: Elements that no chunk of the kernel divides: a cache line, whatever the width of its vectors
#: (16 floats with AVX-512, 8 with AVX2).
_LINE = 16


class Place(NamedTuple):
    """Where a piece lies in the flattened tensor of ``whole`` elements that it is part of."""

    start: int
    whole: int


class FusedAdamW(torch.optim.AdamW):
    """``torch.optim.AdamW(fused=True)`` that may update pieces of tensors.

    The kernel rounds the elements that fill no whole vector otherwise than the rest. In a tensor
    these are the last ones, in a piece of it others would be. Here the lines that a piece begins or
    ends inside of are updated in buffers with their places in the whole tensor.

    Attributes:
        places: by ``id`` of the pieces; what is not named is whole.
    """

    def __init__(self, groups: Any, *, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, betas=betas, eps=eps, fused=True)
        self.places: dict[int, Place] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "nobody here trains with one"
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, group)

    def _update(self, param: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        state["step"] += 1
        tensors = [param, param.grad, state["exp_avg"], state["exp_avg_sq"]]
        place = self.places.get(id(param))
        if place is None:
            _fused([[tensor] for tensor in tensors], state["step"], group)
            return
        lists, copies = _in_lines([tensor.view(-1) for tensor in tensors], place)
        _fused(lists, state["step"], group)
        for values, buffer in copies:
            values.copy_(buffer)


def _in_lines(
    tensors: list[torch.Tensor], place: Place
) -> tuple[list[list[torch.Tensor]], list[tuple[torch.Tensor, torch.Tensor]]]:
    """Cut a piece so that the kernel rounds each element as in the whole tensor.

    Args:
        tensors: weights, gradients and moments of the piece, flat; what lies behind the end of the
            whole tensor is padding and left alone.
        place: of the piece.

    Returns:
        For each of these the parts to update, and what has to be copied back from buffers.
    """
    start, whole = place
    end = min(start + len(tensors[0]), whole)
    first = min(-(-start // _LINE) * _LINE, end)
    last = end if end == whole else max(first, end // _LINE * _LINE)
    lists: list[list[torch.Tensor]] = [
        [tensor[first - start : last - start]] if last > first else [] for tensor in tensors
    ]
    copies = []
    for low, high in ((start, first), (last, end)):
        if high <= low:
            continue
        line = low // _LINE * _LINE
        for tensor, parts in zip(tensors, lists, strict=True):
            buffer = tensor.new_zeros(min(_LINE, whole - line))
            values, copied = tensor[low - start : high - start], buffer[low - line : high - line]
            copied.copy_(values)
            parts.append(buffer)
            copies.append((values, copied))
    return lists, copies


def _fused(lists: list[list[torch.Tensor]], step: torch.Tensor, group: dict[str, Any]) -> None:
    """What ``torch.optim.AdamW(fused=True)`` calls."""
    weights, gradients, firsts, seconds = lists
    beta1, beta2 = group["betas"]
    torch._fused_adamw_(
        weights,
        gradients,
        firsts,
        seconds,
        [],
        [step] * len(lists[0]),
        lr=group["lr"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )
