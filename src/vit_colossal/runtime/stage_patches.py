"""Corrections of ColossalAI 0.5.0 for pipeline stages that have nothing of what others have.

With frozen layers a stage may be without gradients, and with a learning rate per layer without a
parameter in a group. Written like the functions of ``patches``; ``corrections`` applies them.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
import torch.distributed as dist
from colossalai.accelerator import get_accelerator
from colossalai.booster.plugin.hybrid_parallel_plugin import (
    HybridParallelAMPOptimizer,
    HybridParallelNaiveOptimizer,
    HybridParallelZeroOptimizer,
)
from colossalai.zero.low_level import LowLevelZeroOptimizer


def join_norms_without_gradients() -> bool:
    """Let a stage that has no gradients take part in the sum of the squared norms.

    Why: ``booster/plugin/hybrid_parallel_plugin.py``, the three ``_compute_grad_norm``, return at
    once where there is no gradient, while the other stages wait in their all-reduce for ever: with
    clipping, and under ZeRO always. Any device.
    """
    naive = (HybridParallelNaiveOptimizer, HybridParallelAMPOptimizer)
    changed = [_join(kind, grouped=False) for kind in naive]
    return any([*changed, _join(HybridParallelZeroOptimizer, grouped=True)])


def _join(kind: Any, *, grouped: bool) -> bool:
    """Wrap one class's method; ZeRO's is called for each group, with its data-parallel ranks."""
    compute = kind._compute_grad_norm
    if hasattr(compute, "__wrapped__") or "return 0.0" not in inspect.getsource(compute):
        return False

    @functools.wraps(compute)
    def joined(self: Any, *args: Any, **kwargs: Any) -> float:
        bound = inspect.signature(compute).bind(self, *args, **kwargs).arguments
        if bound["gradients" if grouped else "param_gradient_pairs"]:
            norm: float = compute(self, *args, **kwargs)
            return norm
        # The order of upstream's own all-reduces.
        groups = [bound["dp_pg"]] if grouped else []
        return _add_nothing([*groups, self.tp_pg, self.pp_pg])

    kind._compute_grad_norm = joined
    return True


def _add_nothing(groups: list[dist.ProcessGroup | None]) -> float:
    total = torch.zeros(1, device=get_accelerator().get_current_device())
    for group in groups:
        if group is not None and dist.get_world_size(group) > 1:
            dist.all_reduce(total, group=group)
    return float(total.item() ** 0.5)


class _NoParameters(list[Any]):
    """An empty list whose first element can be asked for its type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.like = torch.empty(0, dtype=dtype)

    def __getitem__(self, index: Any) -> Any:
        return self.like


def let_the_first_group_be_empty() -> bool:
    """Let ZeRO start on a stage without a parameter in the optimizer's first group.

    Why: ``zero/low_level/low_level_optim.py``, ``__init__``, takes the type of all parameters from
    the first of the first group (``IndexError``). It replaces the list later on. Any device.
    """
    init = LowLevelZeroOptimizer.__init__
    if hasattr(init, "__wrapped__") or 'groups[0]["params"][0]' not in inspect.getsource(init):
        return False

    @functools.wraps(init)
    def with_stand_in(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        groups = optimizer.param_groups
        if not groups[0]["params"]:
            found = [param.dtype for group in groups for param in group["params"]]
            groups[0]["params"] = _NoParameters(*found[:1] or [kwargs["forced_dtype"]])
        init(self, optimizer, *args, **kwargs)

    LowLevelZeroOptimizer.__init__ = with_stand_in
    return True
