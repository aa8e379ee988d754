"""ColossalAI's plugins with fewer and larger transfers, and without norms that nobody asked for.

The sums are the same: each gradient's element is added up over the same ranks. What was measured
before and after is in docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from colossalai.amp.naive_amp.mixed_precision_mixin import FP16MixedPrecisionMixin
from colossalai.booster.plugin import HybridParallelPlugin, LowLevelZeroPlugin
from colossalai.booster.plugin.hybrid_parallel_plugin import HybridParallelZeroOptimizer
from colossalai.zero.low_level import LowLevelZeroOptimizer
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.nn.utils import clip_grads_with_norm_

from vit_colossal.runtime.clipping import norm_of, total_norm


class _OneBucket(LowLevelZeroOptimizer):
    """ZeRO with one bucket for the parameters of all groups.

    Upstream empties the bucket whenever the next gradient belongs to another parameter group
    (``zero/low_level/low_level_optim.py``, ``_add_to_bucket``). Decayed weights alternate with
    biases and norms that are not decayed, so nearly every gradient was sent on its own. The bucket
    knows one group only for the sake of filing the gradients afterwards, which is done by parameter
    here. When nothing is clipped, it also computes the norm of all gradients, waits for it, and
    multiplies them by 1.

    Upstream adds up the norms of shards, in double precision. In stage 1 each rank has the whole
    averaged gradients for a moment; in fp32 they are clipped as PyTorch does.
    """

    #: All parameters, in the model's order.
    in_order: Sequence[torch.nn.Parameter] = ()

    def _add_to_bucket(self, param: torch.nn.Parameter, group_id: int) -> None:
        # Not in __init__: this class is given to optimizers that exist already.
        self.__dict__.setdefault("_group_of", {})[id(param)] = group_id
        bucket = self.pid_to_bucket_store[id(param)]
        if bucket.num_elements_in_bucket() + param.numel() > self._reduce_bucket_size:
            self._run_reduction()
        bucket.add_param_grad(group_id, param, self.get_param_padding_size(param))

    def _add_grad(
        self, grad: torch.Tensor, partition_num: int, group_id: int, param_id: int, rank: int = 0
    ) -> None:
        super()._add_grad(grad, partition_num, self._group_of[param_id], param_id, rank)

    @property
    def _has_whole_gradients(self) -> bool:
        return not self._partition_grads and self.mixed_precision_mixin is None

    def _compute_grad_norm(self, *args: Any, **options: Any) -> float:
        if self._clip_grad_norm <= 0 or self._has_whole_gradients:
            return 0.0
        return float(super()._compute_grad_norm(*args, **options))

    def _unscale_and_clip_grads(self, gradients: list[torch.Tensor], norm: float) -> None:
        if self._clip_grad_norm > 0 and self._has_whole_gradients:
            self._clip_as_pytorch_does()
            return
        # With neither a scale nor a limit upstream multiplies each gradient by 1.
        scaled = isinstance(self.mixed_precision_mixin, FP16MixedPrecisionMixin)
        if scaled or self._clip_grad_norm > 0:
            super()._unscale_and_clip_grads(gradients, norm)

    def _clip_as_pytorch_does(self) -> None:
        """Scale this rank's shards by the factor of ``torch.nn.utils.clip_grad_norm_``."""
        norms = []
        for param in self.in_order:
            store, group = self.pid_to_grad_store[id(param)], self._group_of.get(id(param))
            parts = store.get_partitioned_gradients_by_param_id(group, id(param))
            if parts:  # of all ranks, the last one padded
                whole = torch.cat(parts) if len(parts) > 1 else parts[0]
                norms.append(norm_of(whole[: param.numel()]))
        norm = total_norm(norms)
        shards = [each for group in self.optim.param_groups for each in group["params"]]
        clip_grads_with_norm_(shards, self._clip_grad_norm, norm)
        self._current_grad_norm = float(norm)


class ZeroOptimizer(_OneBucket, LowLevelZeroOptimizer):
    """The optimizer of zero1 and zero2."""


class _NoUpdate(torch.optim.Optimizer):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing."""


def exchange_only(
    weights: list[torch.nn.Parameter], group: dist.ProcessGroup, bucket_elements: int
) -> ZeroOptimizer:
    """The optimizer of zero2, which updates nothing: for those who measure all the rest of it.

    Args:
        weights: of one type.
        group: of the ranks that exchange.
        bucket_elements: of one transfer.
    """
    zero = LowLevelZeroOptimizer(
        _NoUpdate(weights, {}),
        dp_process_group=group,
        partition_grad=True,
        reduce_bucket_size=bucket_elements,
    )
    zero.__class__ = ZeroOptimizer
    return zero


class HybridZeroOptimizer(_OneBucket, HybridParallelZeroOptimizer):
    """The optimizer of hybrid with ZeRO-1."""


class ZeroPlugin(LowLevelZeroPlugin):
    """``LowLevelZeroPlugin`` with ``ZeroOptimizer``."""

    def configure(self, *args: Any, **options: Any) -> Any:
        model, optimizer, *rest = super().configure(*args, **options)
        if type(optimizer) is LowLevelZeroOptimizer:
            # The plugin names the class it builds; a subclass without state can take its place.
            optimizer.__class__ = ZeroOptimizer
            optimizer.in_order = [p for p in model.parameters() if p.requires_grad]
        return (model, optimizer, *rest)


class HybridPlugin(HybridParallelPlugin):
    """``HybridParallelPlugin`` that averages a pipeline's gradients over the replicas in buckets.

    Upstream sends them one parameter at a time (``HybridParallelModule.sync_dp_grads``).
    """

    def configure(self, *args: Any, **options: Any) -> Any:
        model, optimizer, *rest = super().configure(*args, **options)
        elements = self.zero_config["reduce_bucket_size"]
        model.sync_dp_grads = partial(_average_gradients, model, elements)
        if type(optimizer) is HybridParallelZeroOptimizer:
            optimizer.__class__ = HybridZeroOptimizer
        return (model, optimizer, *rest)


def _average_gradients(model: Any, bucket_elements: int) -> None:
    """The mean of every gradient over the replicas, in place."""
    replicas = model.dp_group.size()
    if replicas == 1:
        return
    gradients = [p.grad for p in model.module.parameters() if p.grad is not None]
    for bucket in buckets(gradients, bucket_elements):
        flat = _flatten_dense_tensors(bucket)
        dist.all_reduce(flat, group=model.dp_group)
        flat.div_(replicas)
        torch._foreach_copy_(bucket, _unflatten_dense_tensors(flat, bucket))


def buckets(tensors: list[torch.Tensor], elements: int) -> list[list[torch.Tensor]]:
    """The tensors in order, in lists of up to so many elements or of one larger tensor."""
    found: list[list[torch.Tensor]] = []
    room = 0
    for tensor in tensors:
        if tensor.numel() > room:
            found.append([])
            room = elements
        found[-1].append(tensor)
        room -= tensor.numel()
    return found
