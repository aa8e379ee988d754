"""One optimizer step: the only place of training that computes differently under a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch

from vit_colossal.data.samples import Batch
from vit_colossal.model.loss import criterion
from vit_colossal.strategies.engine import Engine
from vit_colossal.strategies.inputs import pixels, stage_inputs


class StepOutput(NamedTuple):
    """What one step tells.

    Attributes:
        loss: mean loss of this replica's samples, a detached fp32 scalar on the device; None on
            pipeline stages that do not see the loss.
        grad_norm: global gradient norm before clipping; None when clipping is off or under fp16,
            where the plugins know it scaled only.
        lr: learning rate of this step's update.
    """

    loss: torch.Tensor | None
    grad_norm: torch.Tensor | float | None
    lr: float


def train_step(engine: Engine, batches: list[Batch]) -> StepOutput:
    """Forward, backward, clip, update; nothing is synchronized with the host on purpose.

    Args:
        engine: the boosted model.
        batches: this replica's share of the global batch, one entry per accumulation step
            (always one under a pipeline, whose micro-batches accumulate).
    """
    engine.begin_step([batch.places for batch in batches if batch.places is not None])
    loss = _pipeline(engine, batches[0]) if engine.pipelined else _accumulate(engine, batches)
    lr = float(engine.schedule.get_last_lr()[0])
    norm = engine.strategy.update(engine)
    engine.schedule.step()
    engine.optimizer.zero_grad()
    if engine.ema is not None:
        engine.ema.update(engine.schedule.last_epoch)
    return StepOutput(loss, None if engine.plan.config.precision == "fp16" else norm, lr)


def _accumulate(engine: Engine, batches: list[Batch]) -> torch.Tensor:
    total = torch.zeros((), device=engine.device)
    can_skip = engine.booster.plugin.support_no_sync()
    for index, batch in enumerate(batches):
        last = index == len(batches) - 1
        with nullcontext() if last or not can_skip else engine.strategy.no_sync(engine):
            logits = engine.model(pixel_values=pixels(engine, batch)).logits
            labels = batch.labels.to(engine.device, non_blocking=True)
            [partners] = _partners(engine, batch, len(labels))
            loss = _loss(engine, batch, logits, labels, partners)
            if batch.total is None:
                loss = loss / len(batches)
            engine.booster.backward(loss, engine.optimizer)
        total += loss.detach()
    return total


def _pipeline(engine: Engine, batch: Batch) -> torch.Tensor | None:
    # The schedule hands all inputs to the model's forward, which has no place for the partners'
    # labels. The last stage asks for its losses in the order of the micro-batches.
    partners = iter(_partners(engine, batch, engine.plan.batches.microbatch))
    result = engine.booster.execute_pipeline(
        iter([stage_inputs(engine, batch)]),
        engine.model,
        lambda outputs, inputs: _loss(
            engine, batch, outputs.logits, inputs["labels"], next(partners)
        ),
        engine.optimizer,
        return_loss=True,
    )
    return result["loss"] if engine.last_stage else None


def _partners(engine: Engine, batch: Batch, size: int) -> Sequence[torch.Tensor | None]:
    """The labels that are mixed in, on the device, in micro-batches of ``size`` rows."""
    if batch.mix is None:
        return [None] * (len(batch.labels) // size)
    return batch.mix.labels.to(engine.device, non_blocking=True).split(size)


def _loss(
    engine: Engine,
    batch: Batch,
    logits: torch.Tensor,
    labels: torch.Tensor,
    partners: torch.Tensor | None,
) -> torch.Tensor:
    smoothing = engine.plan.config.label_smoothing or 0.0
    weight = 1.0 if batch.mix is None else batch.mix.draw.weight
    if batch.total is None:
        return criterion(logits, labels, smoothing, partners, weight)
    # Each image counts alike (or by its label), however the step is cut, as in Trainer
    # (`compute_loss`); the gradients of the replicas are averaged, and the schedule divides by its
    # micro-batches.
    total = logits.new_full((), batch.total, dtype=torch.float32)
    parts = engine.dims.dp * engine.plan.batches.num_microbatches
    weights = engine.class_weights
    return criterion(logits, labels, smoothing, partners, weight, total, weights) * parts
