"""The result of an evaluation, and the metrics that follow from its counts. Knows no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vit_colossal.evaluation.predictions import Predictions


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
        predictions: what each image got, where that was asked for; on the lead rank only.
    """

    loss: float
    correct: int
    total: int
    correct_top5: int
    confusion: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    predictions: Predictions | None = field(default=None, compare=False, repr=False)

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
        return class_scores(self.confusion, self.labels)

    def __str__(self) -> str:
        return f"accuracy {self.accuracy:.4f} ({self.correct}/{self.total})"


def class_scores(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> list[ClassScores]:
    """Precision, recall and F1 of each label.

    Args:
        confusion: counts [true label][predicted label].
        labels: label names, in order.
    """
    predicted = [sum(column) for column in zip(*confusion, strict=True)]
    rows = []
    for index, label in enumerate(labels):
        hits, support = confusion[index][index], sum(confusion[index])
        both = support + predicted[index]
        rows.append(
            ClassScores(
                label,
                precision=hits / predicted[index] if predicted[index] else 0.0,
                recall=hits / support if support else 0.0,
                f1=2 * hits / both if both else 0.0,
                support=support,
            )
        )
    return rows
