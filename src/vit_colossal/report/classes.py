"""How a run did on each label: the confusion matrix and what follows from it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from vit_colossal.evaluation.predictions import Predictions
from vit_colossal.evaluation.scores import ClassScores, class_scores

#: Up to so many labels the matrix is a table, whose numbers can be read on a phone too; up to so
#: many a picture, whose cells can be told apart; beyond that the most confused pairs say more.
MAX_TABLE, MAX_PICTURE = 12, 200
#: Most frequent mistakes, where the matrix is a table and where it is none.
FEW_CONFUSED, MANY_CONFUSED = 10, 40
_HUE = (79, 91, 213)


@dataclass(frozen=True)
class Cell:
    """Images of one label that were predicted as one label, and their share of the former.

    ``text`` is the count in at most four characters, up to 999,499.
    """

    count: int
    share: float

    @property
    def text(self) -> str:
        return str(self.count) if self.count < 10_000 else f"{self.count / 1000:.0f}k"


@dataclass(frozen=True)
class ClassView:
    """Of the last evaluation.

    Attributes:
        labels: label names, in order.
        matrix: rows of true labels; empty when there are too many labels for a table.
        digits: characters of its longest cell.
        picture: the matrix as a PNG data URI, where it is no table and can be told apart.
        scores: of each label.
        confused: the most frequent mistakes: true label, prediction, count, share of the former.
        num_right, num_wrong: images.
    """

    labels: tuple[str, ...]
    matrix: list[list[Cell]]
    digits: int
    picture: str
    scores: list[ClassScores]
    confused: list[tuple[str, str, int, float]]
    num_right: int
    num_wrong: int


def class_view(predictions: Predictions) -> ClassView:
    """What the report shows of the labels."""
    counts = predictions.confusion()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = predictions.labels
    few, many = len(names) <= MAX_TABLE, len(names) > MAX_PICTURE
    rows = [
        [Cell(int(n), float(s)) for n, s in zip(*row, strict=True)]
        for row in zip(counts, shares, strict=True)
        if few
    ]
    wrong = counts - np.diag(np.diag(counts))
    listed = FEW_CONFUSED if few else MANY_CONFUSED
    order = np.argsort(-wrong, axis=None, kind="stable")[:listed]
    pairs = [divmod(int(place), len(names)) for place in order if wrong.flat[place]]
    return ClassView(
        labels=names,
        matrix=rows,
        digits=max((len(cell.text) for row in rows for cell in row), default=0),
        picture="" if few or many else _picture(shares),
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
