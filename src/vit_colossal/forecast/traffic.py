"""Bytes that a rank sends in one optimizer step.

Sums and gathers over n ranks are counted as rings do them: 2 (n - 1) / n of the bytes for an
all-reduce, half of that for a reduce-scatter or an all-gather (Patarasuk and Yuan 2009; for ZeRO's
stages Rajbhandari et al. 2020, section 7). Tensor parallelism adds up hidden states behind each
row-parallel product and gradients in front of each column-parallel one (Shoeybi et al. 2019,
arXiv:1909.08053, section 3).
"""

from __future__ import annotations

from vit_colossal.forecast.outline import Outline, held_by_stage, layers_of
from vit_colossal.forecast.state import element_size, state_bytes, zero_stage
from vit_colossal.plan.plan import RunPlan


def bytes_sent(plan: RunPlan, whole: Outline, stage: int = 0) -> int:
    """Of a rank of a pipeline stage, over all of the step's micro-batches."""
    return round(
        _among_replicas(plan, whole, stage)
        + _within_layers(plan, whole, stage)
        + _between_stages(plan)
    )


def most_sent(plan: RunPlan, whole: Outline) -> int:
    """Of the rank that sends the most."""
    return max(bytes_sent(plan, whole, stage) for stage in range(plan.dims.pp))


def _among_replicas(plan: RunPlan, whole: Outline, stage: int) -> float:
    dp, zero = plan.dims.dp, zero_stage(plan.config)
    held = held_by_stage(plan, whole, stage)
    size = element_size(plan.config) * sum(each.numel for each in held if each.trained)
    once = size * (dp - 1) / dp
    if zero == 0:
        return 2 * once
    if zero == 1:  # gradients are summed once, then weights gathered
        return 2 * once + once
    if zero == 2:  # each micro-batch's gradients are sent on
        return plan.batches.accumulation * once + once
    if state_bytes(plan, held).largest_chunk == 0:
        return 2 * once
    return plan.batches.accumulation * 3 * once  # weights twice, gradients once


def _within_layers(plan: RunPlan, whole: Outline, stage: int) -> float:
    encoder, tp = plan.spec.family.encoder, plan.dims.tp
    if encoder is None or tp == 1:
        return 0.0
    first = f"{plan.spec.family.backbone}.{plan.spec.family.blocks}.0."
    inside = [w.name.removeprefix(first) for w in whole.weights if w.name.startswith(first)]
    products = {name.rpartition(".")[0] for name in inside}
    forward, backward = len(products & set(encoder.rows)), len(products & set(encoder.columns))
    if plan.config.grad_checkpoint:
        forward *= 2
    layers = len(layers_of(plan, stage))
    return layers * (forward + backward) * 2 * (tp - 1) / tp * _hidden_states(plan)


def _between_stages(plan: RunPlan) -> float:
    """Hidden states to the next stage and their gradients to the one before."""
    pp = plan.dims.pp
    return 0.0 if pp == 1 else _hidden_states(plan) * (2 if pp > 2 else 1)


def _hidden_states(plan: RunPlan) -> int:
    """Bytes of one border between two layers, of all of a replica's images."""
    images = plan.batches.global_batch // plan.dims.dp
    return images * plan.spec.tokens * plan.spec.shape.hidden_size * element_size(plan.config)
