"""Weights of the labels in the loss, where some have more images than others."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def balanced_weights(labels: np.ndarray, num_labels: int) -> Tensor:
    """n / (k * count) for each label, the formula of scikit-learn's ``class_weight="balanced"``.

    n are the samples, k the labels that have any; scikit-learn names King & Zeng 2001, "Logistic
    Regression in Rare Events Data", as its origin. A label without samples has 1: only label
    smoothing meets it.

    Args:
        labels: int64 [n].
        num_labels: All labels.

    Returns:
        fp32 [num_labels].
    """
    counts = np.bincount(labels, minlength=num_labels)
    occurring = counts > 0
    weights = np.ones(num_labels)
    weights[occurring] = len(labels) / (occurring.sum() * counts[occurring])
    return torch.from_numpy(weights).float()
