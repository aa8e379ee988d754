"""Weights of the labels in the loss, where some have more images than others."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def balanced_weights(labels: np.ndarray, num_labels: int) -> Tensor:
    """n / (k * count) for each label: n samples, k labels that have any, by scikit-learn.

    It names King & Zeng 2001, "Logistic Regression in Rare Events Data", as the formula's origin. A
    label without samples has 1: only label smoothing meets it.

    Args:
        labels: int64 [n].
        num_labels: All labels.

    Returns:
        fp32 [num_labels].
    """
    from sklearn.utils.class_weight import compute_class_weight  # takes most of a second

    occurring = np.unique(labels)
    weights = np.ones(num_labels)
    weights[occurring] = compute_class_weight("balanced", classes=occurring, y=labels)
    return torch.from_numpy(weights).float()
