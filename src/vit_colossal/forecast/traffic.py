"""What a rank sends in one optimizer step, call by call.

Sums and gathers over n ranks are counted as rings do them: 2 (n - 1) / n of the bytes for an
all-reduce, half of that for a reduce-scatter or an all-gather (Patarasuk and Yuan 2009; for ZeRO's
stages Rajbhandari et al. 2020, section 7). Tensor parallelism adds up hidden states behind each
row-parallel product and gradients in front of each column-parallel one (Shoeybi et al. 2019,
arXiv:1909.08053, section 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from vit_colossal.forecast.outline import Outline, held_by_stage, layers_of
from vit_colossal.forecast.state import element_size, state_bytes, zero_stage
from vit_colossal.plan.plan import RunPlan

Kind = Literal["all_reduce", "all_gather", "reduce_scatter", "send"]
#: Bytes of PyTorch's buckets of gradients under DDP: the first, which is ready first, and others.
_FIRST_BUCKET, _BUCKET = 2**20, 25 * 2**20


@dataclass(frozen=True)
class Transfer:
    """Calls of one kind and size that a rank takes part in, in one step.

    Attributes:
        kind: what is done.
        ranks: that take part in a call.
        size: bytes of the whole tensor of a call.
        times: calls.
        element: bytes of a number.
        hidden: they run beside the backward pass.
        stride: from one of the ranks to the next, by their numbers.
    """

    kind: Kind
    ranks: int
    size: float
    times: int
    element: int
    hidden: bool = False
    stride: int = 1

    @property
    def sent(self) -> float:
        """Bytes that a rank sends."""
        share = (self.ranks - 1) / self.ranks
        factor = {"all_reduce": 2 * share, "send": 1.0}.get(self.kind, share)
        return factor * self.size * self.times

    def on_a_host(self, devices: int | None) -> int:
        """Ranks of a call that share a host of so many devices; None where all are on one.

        Where the stride does not divide the devices, those of the host that has the fewest.
        """
        return self.ranks if devices is None else min(self.ranks, max(1, devices // self.stride))


def bytes_sent(plan: RunPlan, whole: Outline, stage: int = 0) -> int:
    """Of a rank of a pipeline stage, over all of the step's micro-batches."""
    every = [*among_replicas(plan, whole, stage), *along_the_model(plan, whole, stage)]
    return round(sum(transfer.sent for transfer in every))


def most_sent(plan: RunPlan, whole: Outline) -> int:
    """Of the rank that sends the most."""
    return max(bytes_sent(plan, whole, stage) for stage in range(plan.dims.pp))


def among_replicas(plan: RunPlan, whole: Outline, stage: int) -> list[Transfer]:
    """Gradients and weights of one stage's replicas, which are outermost in the ranks' order."""
    stride = plan.dims.tp * plan.dims.pp
    return [replace(each, stride=stride) for each in _of_replicas(plan, whole, stage)]


def _of_replicas(plan: RunPlan, whole: Outline, stage: int) -> list[Transfer]:
    dp, zero, element = plan.dims.dp, zero_stage(plan.config), element_size(plan.config)
    if dp == 1:
        return []
    held = held_by_stage(plan, whole, stage)
    size = element * sum(each.numel for each in held if each.trained)
    bucket = element * plan.bucket_elements
    if zero == 0 and plan.dims.pp == 1:
        return _beside_backward(size, dp, element)
    if zero == 0:
        return _cut("all_reduce", size, bucket, dp, element)
    # On a CPU upstream waits for each transfer where it says that it overlaps.
    hidden, times = plan.device.kind == "cuda", plan.batches.accumulation
    gathered = _cut("all_gather", size, bucket * dp, dp, element)
    if zero == 1:  # gradients are summed once, then weights gathered
        return [*_cut("all_reduce", size, bucket, dp, element, hidden=hidden), *gathered]
    if zero == 2:  # each micro-batch's gradients are sent on
        reduced = _cut("reduce_scatter", size, bucket, dp, element, times, hidden=hidden)
        return [*reduced, *gathered]
    chunk = element * state_bytes(plan, held).largest_chunk
    if chunk == 0:
        return [Transfer("all_reduce", dp, size, times, element)]
    chunks = math.ceil(size / chunk)
    return [  # weights twice, gradients once
        Transfer("all_gather", dp, size / chunks, 2 * times * chunks, element),
        Transfer("reduce_scatter", dp, size / chunks, times * chunks, element),
    ]


def along_the_model(plan: RunPlan, whole: Outline, stage: int) -> list[Transfer]:
    """Hidden states and their gradients: of tensor parallelism, innermost in the ranks' order, and
    between stages."""
    dims, batches, element = plan.dims, plan.batches, element_size(plan.config)
    size = batches.microbatch * plan.spec.tokens * plan.spec.shape.hidden_size * element
    times = batches.accumulation * batches.num_microbatches
    found = []
    if sums := times * len(layers_of(plan, stage)) * _sums_of_a_layer(plan, whole):
        found.append(Transfer("all_reduce", dims.tp, size, sums, element))
    if dims.pp > 1:  # to the next stage, and back to the one before
        sends = times * (2 if dims.pp > 2 else 1)
        found.append(Transfer("send", dims.pp, size, sends, element, stride=dims.tp))
    return found


def _sums_of_a_layer(plan: RunPlan, whole: Outline) -> int:
    encoder, tp = plan.spec.family.encoder, plan.dims.tp
    if encoder is None or tp == 1:
        return 0
    first = f"{plan.spec.family.backbone}.{plan.spec.family.blocks}.0."
    inside = [w.name.removeprefix(first) for w in whole.weights if w.name.startswith(first)]
    products = {name.rpartition(".")[0] for name in inside}
    forward, backward = len(products & set(encoder.rows)), len(products & set(encoder.columns))
    return forward * (2 if plan.config.grad_checkpoint else 1) + backward


def _beside_backward(size: int, ranks: int, element: int) -> list[Transfer]:
    """DDP's buckets: all but the last are sent while gradients are still computed."""
    first = min(size, _FIRST_BUCKET)
    sizes = [first, *_parts(size - first, _BUCKET)]
    return [
        Transfer("all_reduce", ranks, each, 1, element, hidden=number < len(sizes))
        for number, each in enumerate(sizes, 1)
    ]


def _cut(
    kind: Kind,
    size: int,
    bucket: int,
    ranks: int,
    element: int,
    times: int = 1,
    *,
    hidden: bool = False,
) -> list[Transfer]:
    return [Transfer(kind, ranks, each, times, element, hidden) for each in _parts(size, bucket)]


def _parts(size: int, largest: int) -> list[int]:
    rest = [size % largest] if size % largest else []
    return [largest] * (size // largest) + rest
