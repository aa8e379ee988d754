"""The thumbnails that a run saved, with what was predicted."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from pathlib import Path

from vit_colossal.evaluation.predictions import Predictions, sample_right, thumbnail, worst_wrong

#: Scores shown beside a picture, the true label's included.
NUM_SCORES = 3
_JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class Score:
    """One label's share of the probability; ``true`` for the image's own label."""

    label: str
    share: float
    true: bool


@dataclass(frozen=True)
class Picture:
    """An image of the evaluation split; ``source`` is a data URI, ``scores`` best first."""

    index: int
    source: str
    label: str
    prediction: str
    scores: list[Score]


def pictures(run_dir: Path, predictions: Predictions) -> tuple[list[Picture], list[Picture]]:
    """The worst wrong and some right ones, those of which the run has a thumbnail."""
    wrong, right = (
        [_picture(run_dir, predictions, index) for index in chosen(predictions)]
        for chosen in (worst_wrong, sample_right)
    )
    return [p for p in wrong if p is not None], [p for p in right if p is not None]


def _picture(run_dir: Path, predictions: Predictions, index: int) -> Picture | None:
    path = thumbnail(run_dir, index)
    if path.is_symlink() or path.parent.is_symlink():  # what lies elsewhere is not the run's
        return None
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if not content.startswith(_JPEG):
        return None
    label = int(predictions.label[index])
    best = zip(predictions.top_labels[index], predictions.top_scores[index], strict=True)
    scores = {int(place): float(score) for place, score in list(best)[:NUM_SCORES]}
    if label not in scores:
        # The loss is minus the logarithm of the true label's score.
        del scores[list(scores)[-1]]
        scores[label] = math.exp(-float(predictions.loss[index]))
    names = predictions.labels
    return Picture(
        index=index,
        source="data:image/jpeg;base64," + base64.b64encode(content).decode(),
        label=names[label],
        prediction=names[int(predictions.prediction[index])],
        scores=[Score(names[place], share, place == label) for place, share in scores.items()],
    )
