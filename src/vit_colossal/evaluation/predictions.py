"""What a run predicted for each evaluation image: ``predictions.parquet`` and ``thumbnails/``."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vit_colossal.data.pixels import Pixels
from vit_colossal.plan.run_folder import PREDICTIONS, THUMBNAILS

#: Pictures kept of each kind, and their longest side in pixels.
NUM_WORST, NUM_RIGHT = 24, 24
THUMBNAIL_SIZE = 128


@dataclass(frozen=True, eq=False)
class Predictions:
    """One row per image, in the order of the split.

    Attributes:
        labels: label names, in order.
        label, prediction: int64 [N], places in ``labels``.
        loss: float32 [N], cross-entropy in nats: minus the logarithm of the true label's score.
        top_labels: int64 [N, k], the k = min(5, labels) best, best first.
        top_scores: float32 [N, k], their softmax probabilities.
    """

    labels: tuple[str, ...]
    label: np.ndarray
    prediction: np.ndarray
    loss: np.ndarray
    top_labels: np.ndarray
    top_scores: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    @property
    def right(self) -> np.ndarray:
        """bool [N]."""
        result: np.ndarray = self.label == self.prediction
        return result

    def confusion(self) -> np.ndarray:
        """Counts int64 [true label, predicted label]."""
        counts = np.zeros((len(self.labels), len(self.labels)), dtype=np.int64)
        np.add.at(counts, (self.label, self.prediction), 1)
        return counts


def worst_wrong(predictions: Predictions, count: int = NUM_WORST) -> list[int]:
    """The wrong images of highest loss, worst first."""
    wrong = np.flatnonzero(~predictions.right)
    order = np.argsort(-predictions.loss[wrong], kind="stable")
    return [int(index) for index in wrong[order[:count]]]


def sample_right(predictions: Predictions, count: int = NUM_RIGHT) -> list[int]:
    """Right images from all over the split, the same ones each time."""
    right = np.flatnonzero(predictions.right)
    places = np.linspace(0, len(right) - 1, min(count, len(right))).round().astype(int)
    return [int(index) for index in right[places]]


def clear(run_dir: Path) -> None:
    """Remove those of an earlier run in the same place."""
    (run_dir / PREDICTIONS).unlink(missing_ok=True)
    shutil.rmtree(run_dir / THUMBNAILS, ignore_errors=True)


def save(run_dir: Path, predictions: Predictions, images: Pixels) -> None:
    """Write all predictions, and thumbnails of the worst and of some right ones.

    Args:
        run_dir: the run directory.
        predictions: one row per image.
        images: uint8 [N, 3, H, W], in the same order.
    """
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "index": np.arange(len(predictions)),
        "label": predictions.label,
        "prediction": predictions.prediction,
        "probability": predictions.top_scores[:, 0],
        "loss": predictions.loss,
        "top_labels": pa.array(list(predictions.top_labels)),
        "top_scores": pa.array(list(predictions.top_scores)),
    }
    table = pa.table(columns).replace_schema_metadata({"labels": json.dumps(predictions.labels)})
    # Renamed when complete: a report may read the run at any time.
    unfinished = run_dir / f".{PREDICTIONS}"
    parquet.write_table(table, unfinished)
    folder = run_dir / THUMBNAILS
    folder.mkdir(exist_ok=True)
    chosen = sorted({*worst_wrong(predictions), *sample_right(predictions)})
    for index, pixels in zip(chosen, images[np.array(chosen, dtype=np.int64)], strict=True):
        picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        picture.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        picture.save(thumbnail(run_dir, index), quality=90)
    unfinished.replace(run_dir / PREDICTIONS)


def thumbnail(run_dir: Path, index: int) -> Path:
    """Where the picture of an image is kept, if it is."""
    return run_dir / THUMBNAILS / f"{index:06d}.jpg"


def load(run_dir: Path) -> Predictions | None:
    """The predictions of a run; None where it saved none.

    Raises:
        ValueError: the file is not one of these.
    """
    path = run_dir / PREDICTIONS
    if not path.is_file():
        return None
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # Not by its path: pandas and others may have put files of their own beside it.
        with path.open("rb") as file:
            table = parquet.read_table(file)
        names = json.loads((table.schema.metadata or {})[b"labels"])
        columns = {name: table[name].to_numpy() for name in ("label", "prediction", "loss")}
        columns |= {name: np.stack(table[name].to_numpy()) for name in ("top_labels", "top_scores")}
    except (pa.ArrowException, KeyError, OSError) as error:
        raise ValueError(f"{path}: not the predictions of a run ({error})") from None
    found = Predictions(labels=tuple(map(str, names)), **columns)
    places = np.concatenate([found.label, found.prediction, found.top_labels.ravel()])
    if places.size and not 0 <= places.min() <= places.max() < len(found.labels):
        raise ValueError(f"{path}: a label that has no name")
    return found
