"""Exact evaluation: every sample of the split once, under every layout.

All replicas run the same number of forwards of the same size (padding carries label -100);
counts and loss sums come from the logits and are divided once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from colossalai.pipeline.schedule import OneForwardOneBackwardSchedule
from torch.nn.functional import cross_entropy

from vit_colossal.data.loaders import IGNORED_LABEL, Batch
from vit_colossal.engine import Engine
from vit_colossal.train_step import stage_inputs


@dataclass(frozen=True)
class Evaluation:
    """The result over a whole split. ``loss`` is the mean cross-entropy per sample."""

    loss: float
    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    def __str__(self) -> str:
        return f"accuracy {self.accuracy:.4f} ({self.correct}/{self.total})"


def evaluate(engine: Engine, batches: Iterable[Batch], num_samples: int) -> Evaluation:
    """Evaluate this replica's batches and sum over all replicas.

    Args:
        engine: the boosted model.
        batches: this replica's share of the split, every batch of the same size.
        num_samples: size of the split; the number of samples seen has to equal it.

    Raises:
        RuntimeError: a sample was seen twice or not at all.
    """
    sums = _Sums(engine.device)
    engine.model.eval()
    with torch.no_grad():
        if engine.pipelined:
            _run_pipeline(engine, batches, sums)
        else:
            for batch in batches:
                logits = engine.model(pixel_values=engine.pixels(batch.images)).logits
                sums.add(logits, batch.labels.to(engine.device))
    engine.model.train()
    loss_sum, correct, seen = sums.reduce(engine)
    if seen != num_samples:
        raise RuntimeError(f"evaluation saw {seen} samples of a split of {num_samples}")
    return Evaluation(loss=loss_sum / seen, correct=correct, total=seen)


class _Sums:
    """Loss sum, number correct and number seen, in double precision on the device."""

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count logits [B, labels] against labels int64 [B], leaving out the padding."""
        logits = logits.float()
        losses = cross_entropy(logits, labels, ignore_index=IGNORED_LABEL, reduction="none")
        correct = logits.argmax(dim=-1) == labels
        seen = labels != IGNORED_LABEL
        self.values += torch.stack([losses.double().sum(), correct.sum(), seen.sum()])

    def reduce(self, engine: Engine) -> tuple[float, int, int]:
        """Sum over the replicas, then tell every rank what the last stage knows."""
        if engine.last_stage:
            dist.all_reduce(self.values, group=engine.dp_group)
        dist.broadcast(self.values, src=engine.dims.lead_rank)
        loss_sum, correct, seen = self.values.tolist()
        return loss_sum, int(correct), int(seen)


def _run_pipeline(engine: Engine, batches: Iterable[Batch], sums: _Sums) -> None:
    """Forward-only pipeline with a schedule of its own.

    The training schedule remembers batch sizes and tensor metadata from step to step; an
    evaluation through it would leave its own behind and break the next training step. The second
    schedule sees one shape only, so its metadata cache stays valid.
    """
    training = engine.booster.plugin.scheduler
    schedule = OneForwardOneBackwardSchedule(
        training.stage_manager, microbatch_size=engine.plan.batches.microbatch
    )
    schedule.last_batch_size = engine.plan.batches.forward_batch

    def count(outputs: object, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = outputs.logits  # type: ignore[attr-defined]
        sums.add(logits, inputs["labels"])
        return logits.new_zeros(())

    for batch in batches:
        data = iter([stage_inputs(engine, batch)])
        schedule.forward_backward_step(engine.model, data, count)
