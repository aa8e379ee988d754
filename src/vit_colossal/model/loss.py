"""The training loss: cross-entropy, with smoothed and mixed labels where asked for."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy


def criterion(
    logits: Tensor,
    labels: Tensor,
    smoothing: float = 0.0,
    partners: Tensor | None = None,
    weight: float = 1.0,
    total: Tensor | None = None,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy in fp32; labels of -100 do not count.

    Labels stay indices: the cross-entropy with ``weight`` of one label and ``1 - weight`` of
    another is the weighted sum of the two. (Given labels as probabilities, the model would take
    itself for a multi-label one, and its saved configuration would say so.)

    Args:
        logits: [B, labels].
        labels: int64 [B].
        smoothing: share of each label that is spread over all labels (Szegedy et al. 2016,
            arXiv:1512.00567).
        partners: int64 [B], the labels that are mixed in.
        weight: share of ``labels``.
        total: divide the sum by this number, on the device, rather than by that of the labels (or
            the sum of their weights).
        class_weights: fp32 [labels], what a label counts in a weighted mean, as in PyTorch's
            ``CrossEntropyLoss``.
    """
    logits = logits.float()

    def mean(targets: Tensor) -> Tensor:
        reduction = "mean" if total is None else "sum"
        loss = cross_entropy(
            logits, targets, class_weights, reduction=reduction, label_smoothing=smoothing
        )
        return loss if total is None else loss / total

    own = mean(labels)
    if partners is None:
        return own
    return weight * own + (1.0 - weight) * mean(partners)
