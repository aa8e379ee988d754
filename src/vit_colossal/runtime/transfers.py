"""ColossalAI's plugins with fewer and larger transfers, and without norms that nobody asked for.

The sums are the same: each gradient's element is added up over the same ranks. What was measured
before and after is in docs/performance.md.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from colossalai.amp.naive_amp.mixed_precision_mixin import FP16MixedPrecisionMixin
from colossalai.booster.plugin import HybridParallelPlugin, LowLevelZeroPlugin
from colossalai.booster.plugin.hybrid_parallel_plugin import HybridParallelZeroOptimizer
from colossalai.zero.low_level import LowLevelZeroOptimizer
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

#: Elements of one all-reduce, as in ColossalAI's ZeRO.
BUCKET_ELEMENTS = 12 * 2**20


class _OneBucket(LowLevelZeroOptimizer):
    """ZeRO with one bucket for the parameters of all groups.

    Upstream empties the bucket whenever the next gradient belongs to another parameter group
    (``zero/low_level/low_level_optim.py``, ``_add_to_bucket``). Decayed weights alternate with
    biases and norms that are not decayed, so nearly every gradient was sent on its own. The bucket
    knows one group only for the sake of filing the gradients afterwards, which is done by parameter
    here. When nothing is clipped, it also computes the norm of all gradients, waits for it, and
    multiplies them by 1.
    """

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

    def _compute_grad_norm(self, *args: Any, **options: Any) -> float:
        if self._clip_grad_norm <= 0:
            return 0.0
        return float(super()._compute_grad_norm(*args, **options))

    def _unscale_and_clip_grads(self, gradients: list[torch.Tensor], norm: float) -> None:
        # With neither a scale nor a limit upstream multiplies each gradient by 1.
        scaled = isinstance(self.mixed_precision_mixin, FP16MixedPrecisionMixin)
        if scaled or self._clip_grad_norm > 0:
            super()._unscale_and_clip_grads(gradients, norm)


class ZeroOptimizer(_OneBucket, LowLevelZeroOptimizer):
    """The optimizer of zero1 and zero2."""


class HybridZeroOptimizer(_OneBucket, HybridParallelZeroOptimizer):
    """The optimizer of hybrid with ZeRO-1."""


class ZeroPlugin(LowLevelZeroPlugin):
    """``LowLevelZeroPlugin`` with ``ZeroOptimizer``."""

    def configure(self, *args: Any, **options: Any) -> Any:
        model, optimizer, *rest = super().configure(*args, **options)
        if type(optimizer) is LowLevelZeroOptimizer:
            # The plugin names the class it builds; a subclass without state can take its place.
            optimizer.__class__ = ZeroOptimizer
        return (model, optimizer, *rest)


class HybridPlugin(HybridParallelPlugin):
    """``HybridParallelPlugin`` that averages a pipeline's gradients over the replicas in buckets.

    Upstream sends them one parameter at a time (``HybridParallelModule.sync_dp_grads``).
    """

    def configure(self, *args: Any, **options: Any) -> Any:
        model, optimizer, *rest = super().configure(*args, **options)
        model.sync_dp_grads = MethodType(_average_gradients, model)
        if type(optimizer) is HybridParallelZeroOptimizer:
            optimizer.__class__ = HybridZeroOptimizer
        return (model, optimizer, *rest)


def _average_gradients(model: Any) -> None:
    """The mean of every gradient over the replicas, in place."""
    replicas = model.dp_group.size()
    if replicas == 1:
        return
    for bucket in buckets([p.grad for p in model.module.parameters() if p.grad is not None]):
        flat = _flatten_dense_tensors(bucket)
        dist.all_reduce(flat, group=model.dp_group)
        flat.div_(replicas)
        torch._foreach_copy_(bucket, _unflatten_dense_tensors(flat, bucket))


def buckets(tensors: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """The tensors in order, in lists of up to ``BUCKET_ELEMENTS`` or of one larger tensor."""
    found: list[list[torch.Tensor]] = []
    room = 0
    for tensor in tensors:
        if tensor.numel() > room:
            found.append([])
            room = BUCKET_ELEMENTS
        found[-1].append(tensor)
        room -= tensor.numel()
    return found
