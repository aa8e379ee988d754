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
class ClassScores:
    """One label's precision, recall and F1 (0 where undefined) and its number of images."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Evaluation:
    """The result over a whole split.

    Attributes:
        loss: mean cross-entropy per sample.
        correct, total: counts of the top-1 prediction.
        correct_top5: samples whose label is among the five highest scores.
        confusion: counts [true label][predicted label].
        labels: label names, in order.
    """

    loss: float
    correct: int
    total: int
    correct_top5: int
    confusion: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the labels that occur in the split."""
        scores = [scores.f1 for scores in self.per_class() if scores.support]
        return sum(scores) / len(scores)

    def per_class(self) -> list[ClassScores]:
        """Precision, recall and F1 of each label, from the confusion matrix."""
        rows = []
        for index, label in enumerate(self.labels):
            hits = self.confusion[index][index]
            support = sum(self.confusion[index])
            predicted = sum(row[index] for row in self.confusion)
            rows.append(
                ClassScores(
                    label,
                    precision=hits / predicted if predicted else 0.0,
                    recall=hits / support if support else 0.0,
                    f1=2 * hits / (support + predicted) if support + predicted else 0.0,
                    support=support,
                )
            )
        return rows

    def __str__(self) -> str:
        return f"accuracy {self.accuracy:.4f} ({self.correct}/{self.total})"


def evaluate(
    engine: Engine, batches: Iterable[Batch], num_samples: int, labels: tuple[str, ...]
) -> Evaluation:
    """Evaluate this replica's batches and sum over all replicas.

    Args:
        engine: the boosted model.
        batches: this replica's share of the split, every batch of the same size.
        num_samples: size of the split; the number of samples seen has to equal it.
        labels: label names, in order.

    Raises:
        RuntimeError: a sample was seen twice or not at all.
    """
    sums = _Sums(engine.device, len(labels))
    engine.model.eval()
    with torch.no_grad():
        if engine.pipelined:
            _run_pipeline(engine, batches, sums)
        else:
            for batch in batches:
                logits = engine.model(pixel_values=engine.pixels(batch.images)).logits
                sums.add(logits, batch.labels.to(engine.device))
    engine.model.train()
    sums.reduce(engine)
    return sums.result(num_samples, labels)


class _Sums:
    """Counts and the loss sum, kept on the device until the end of the split."""

    def __init__(self, device: torch.device, num_labels: int) -> None:
        self.loss = torch.zeros(1, dtype=torch.float64, device=device)
        self.top5 = torch.zeros(1, dtype=torch.int64, device=device)
        self.confusion = torch.zeros(num_labels, num_labels, dtype=torch.int64, device=device)

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count logits [B, labels] against labels int64 [B], leaving out the padding."""
        real = labels != IGNORED_LABEL
        logits, labels = logits[real].float(), labels[real]
        self.loss += cross_entropy(logits, labels, reduction="none").double().sum()
        ranked = logits.topk(min(5, logits.shape[-1])).indices
        self.top5 += (ranked == labels[:, None]).sum()
        # Not ranked[:, 0]: topk and argmax break ties differently, and users compare with argmax.
        predicted = logits.argmax(dim=-1)
        ones = torch.ones_like(labels)
        self.confusion.index_put_((labels, predicted), ones, accumulate=True)

    def reduce(self, engine: Engine) -> None:
        """Sum over the replicas, then tell every rank what the last stage knows."""
        for values in (self.loss, self.top5, self.confusion):
            if engine.last_stage:
                dist.all_reduce(values, group=engine.dp_group)
            dist.broadcast(values, src=engine.dims.lead_rank)

    def result(self, num_samples: int, labels: tuple[str, ...]) -> Evaluation:
        """The metrics of a split of ``num_samples``, once everything is summed."""
        seen = int(self.confusion.sum())
        if seen != num_samples:
            raise RuntimeError(f"evaluation saw {seen} samples of a split of {num_samples}")
        return Evaluation(
            loss=self.loss.item() / seen,
            correct=int(self.confusion.trace()),
            total=seen,
            correct_top5=int(self.top5),
            confusion=tuple(tuple(row) for row in self.confusion.tolist()),
            labels=labels,
        )


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
