"""How a run did on each label: the confusion matrix and what follows from it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from vit_colossal.evaluation.predictions import Predictions
from vit_colossal.evaluation.scores import ClassScores, class_scores

#: More labels than this are shown as a picture: as a table, nobody could read them.
MAX_TABLE = 24
MAX_CONFUSED = 10
_HUE = (79, 91, 213)


@dataclass(frozen=True)
class Cell:
    """Images of one label that were predicted as one label, and their share of the former."""

    count: int
    share: float


@dataclass(frozen=True)
class ClassView:
    """Of the last evaluation.

    Attributes:
        labels: label names, in order.
        matrix: rows of true labels; empty when there are too many labels for a table.
        picture: the matrix as a PNG data URI then, else empty.
        scores: of each label.
        confused: the most frequent mistakes: true label, prediction, count, share of the former.
        num_right, num_wrong: images.
    """

    labels: tuple[str, ...]
    matrix: list[list[Cell]]
    picture: str
    scores: list[ClassScores]
    confused: list[tuple[str, str, int, float]]
    num_right: int
    num_wrong: int


def class_view(predictions: Predictions) -> ClassView:
    """What the report shows of the labels."""
    counts = predictions.confusion()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names, few = predictions.labels, len(predictions.labels) <= MAX_TABLE
    rows = [
        [Cell(int(n), float(s)) for n, s in zip(*row, strict=True)]
        for row in zip(counts, shares, strict=True)
    ]
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSED]
    pairs = [divmod(int(place), len(names)) for place in order if wrong.flat[place]]
    return ClassView(
        labels=names,
        matrix=rows if few else [],
        picture="" if few else _picture(shares),
        scores=class_scores(counts.tolist(), names),
        confused=[(names[a], names[b], int(wrong[a, b]), float(shares[a, b])) for a, b in pairs],
        num_right=int(np.trace(counts)),
        num_wrong=int(wrong.sum()),
    )


def _picture(shares: np.ndarray) -> str:
    """One pixel a cell; its opacity is the share, so that it goes with a light and a dark page."""
    pixels = np.empty((*shares.shape, 4), dtype=np.uint8)
    pixels[..., :3] = _HUE
    # The square root lets rare mistakes be seen beside the diagonal.
    pixels[..., 3] = np.round(255 * np.sqrt(shares))
    out = BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
