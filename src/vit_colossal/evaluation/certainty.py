"""How much an accuracy says: its interval, and whether it beats an answer without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: The level of every test here; intervals have the other 95 %.
LEVEL = 0.05


def interval(correct: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a share (Wilson 1927, JASA 22), good near 0 and 1 too."""
    from scipy.stats import binomtest

    bounds = binomtest(correct, total).proportion_ci(confidence_level=1 - LEVEL, method="wilson")
    return float(bounds.low), float(bounds.high)


@dataclass(frozen=True)
class Baseline:
    """Answering every image with the label that most of them have.

    Attributes:
        label: that label; the first of several.
        correct: images that have it.
        p_value: how likely a model no better than this is to be right as often as the one judged,
            or more often.
        least_p_value: the same of a model that is always right.
    """

    label: str
    correct: int
    p_value: float
    least_p_value: float

    @property
    def is_beaten(self) -> bool:
        """Whether the model judged is significantly better."""
        return self.p_value < LEVEL

    @property
    def can_be_beaten(self) -> bool:
        """Whether there are images enough to tell a good model from it."""
        return self.least_p_value < LEVEL


def majority_baseline(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> Baseline:
    """Compare a model with the majority class, on the images of its evaluation.

    Both answer the same images, so McNemar's test (1947, Psychometrika 12) is the one that fits:
    exact and one-sided, over the images that one of the two has right and the other has wrong.

    Args:
        confusion: counts [true label][predicted label].
        labels: label names, in order.
    """
    from scipy.stats import binomtest

    support = [sum(row) for row in confusion]
    majority = support.index(max(support))
    correct = sum(row[label] for label, row in enumerate(confusion))
    both = confusion[majority][majority]
    model_alone, baseline_alone = correct - both, support[majority] - both
    disputed = model_alone + baseline_alone
    p_value = binomtest(model_alone, disputed, alternative="greater").pvalue if disputed else 1.0
    least = 0.5 ** (sum(support) - support[majority])
    return Baseline(labels[majority], support[majority], float(p_value), least)
