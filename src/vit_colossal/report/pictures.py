"""The thumbnails that a run saved, with what was predicted, and which labels may be wrong."""

from __future__ import annotations

import base64
import csv
import math
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from vit_colossal.evaluation.predictions import (
    NUM_SUSPECTED,
    Predictions,
    sample_right,
    shown_wrong,
    suspected,
    thumbnail,
)

#: Scores shown beside a picture, the true label's included.
NUM_SCORES = 3
#: Suspected label errors in view; the file has all.
MAX_LISTED = 200
_JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class Score:
    """One label's share of the probability; ``true`` for the image's own label."""

    label: str
    share: float
    true: bool


@dataclass(frozen=True)
class Picture:
    """An image of the evaluation split.

    Attributes:
        key: what it is called.
        source: a data URI.
        cropped: it shows what the model saw, as the file could not be had.
        suspected: its label may be wrong.
        label, prediction: names.
        scores: best first, the true label's among them.
    """

    key: str
    source: str
    cropped: bool
    suspected: bool
    label: str
    prediction: str
    scores: list[Score]


@dataclass(frozen=True)
class Suspects:
    """Images whose label may be wrong.

    Attributes:
        count: all of them.
        first: the surest: key, label, prediction, the prediction's score, the label's.
        csv: all of them as a data URI.
    """

    count: int
    first: list[tuple[str, str, str, float, float]]
    csv: str


def pictures(run_dir: Path, predictions: Predictions) -> tuple[list[Picture], list[Picture]]:
    """Wrong and some right ones, those of which the run has a thumbnail; the worst first."""
    doubtful = suspected(predictions)
    wrong = {*shown_wrong(predictions), *doubtful[:NUM_SUSPECTED]}
    worst = sorted(wrong, key=lambda index: (-float(predictions.loss[index]), index))
    found = (
        [_picture(run_dir, predictions, index, doubtful=index in doubtful) for index in chosen]
        for chosen in (worst, sample_right(predictions))
    )
    first, second = ([one for one in some if one is not None] for some in found)
    return first, second


def suspects(predictions: Predictions) -> Suspects:
    """The images whose label may be wrong, for the page and as a file."""
    names = predictions.labels
    rows = [
        (
            predictions.key(index),
            names[predictions.label[index]],
            names[predictions.prediction[index]],
            float(predictions.top_scores[index, 0]),
            math.exp(-float(predictions.loss[index])),
        )
        for index in suspected(predictions)
    ]
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["key", "label", "prediction", "prediction_score", "label_score"])
    for *texts, sure, own in rows:
        writer.writerow([*texts, f"{sure:.6f}", f"{own:.6f}"])
    content = base64.b64encode(out.getvalue().encode()).decode()
    return Suspects(len(rows), rows[:MAX_LISTED], f"data:text/csv;charset=utf-8;base64,{content}")


def _picture(
    run_dir: Path, predictions: Predictions, index: int, *, doubtful: bool
) -> Picture | None:
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
        key=predictions.key(index),
        source="data:image/jpeg;base64," + base64.b64encode(content).decode(),
        cropped=index in predictions.cropped,
        suspected=doubtful,
        label=names[label],
        prediction=names[int(predictions.prediction[index])],
        scores=[Score(names[place], share, place == label) for place, share in scores.items()],
    )
