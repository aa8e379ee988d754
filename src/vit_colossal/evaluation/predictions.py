"""What a run predicted for each evaluation image: ``predictions.parquet`` and ``thumbnails/``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vit_colossal.data.decoding import at_most, picture_of
from vit_colossal.data.pixels import Pixels
from vit_colossal.durable import remove, replacing
from vit_colossal.plan.run_folder import PREDICTIONS, THUMBNAILS

if TYPE_CHECKING:
    from vit_colossal.data.originals import Originals

#: Pictures kept: of the worst mistakes, of all mistakes together, of suspected label errors and of
#: right ones; and their longest side in pixels.
NUM_WORST, NUM_WRONG, NUM_SUSPECTED, NUM_RIGHT = 24, 72, 24, 24
THUMBNAIL_SIZE = 160


@dataclass(frozen=True, eq=False)
class Predictions:
    """One row per image, in the order of the split.

    Attributes:
        labels: label names, in order.
        label, prediction: int64 [N], places in ``labels``.
        loss: float32 [N], cross-entropy in nats: minus the logarithm of the true label's score.
        top_labels: int64 [N, k], the k = min(5, labels) best, best first.
        top_scores: float32 [N, k], their softmax probabilities.
        keys: what each image is called, see :class:`originals.Originals`; an earlier version wrote
            none.
        cropped: places of those whose thumbnails show what the model saw, as their files could not
            be had any more.
    """

    labels: tuple[str, ...]
    label: np.ndarray
    prediction: np.ndarray
    loss: np.ndarray
    top_labels: np.ndarray
    top_scores: np.ndarray
    keys: tuple[str, ...] = ()
    cropped: frozenset[int] = frozenset()

    def key(self, index: int) -> str:
        """What an image is called; its number, where nothing else was kept."""
        return self.keys[index] if self.keys else f"image {index}"

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


def shown_wrong(predictions: Predictions, count: int = NUM_WRONG) -> list[int]:
    """The worst mistakes, and then of every class in turn its next worst, so that each has some."""
    worst = worst_wrong(predictions)
    taken = set(worst)
    ranks: Counter[int] = Counter()
    rest = []
    for index in worst_wrong(predictions, len(predictions)):
        label = int(predictions.label[index])
        if index not in taken:
            rest.append((ranks[label], index))
        ranks[label] += 1
    rest.sort(key=lambda one: one[0])  # stable: highest loss first among those of one rank
    shown = {*worst, *(index for _, index in rest[: max(0, count - len(worst))])}
    return sorted(shown, key=lambda index: (-float(predictions.loss[index]), index))


def suspected(predictions: Predictions) -> list[int]:
    """Images whose label may be wrong, the surest first.

    The model says another label, with more than half of the probability, and is at least as sure of
    it as it is on average of images that have that label: Northcutt, Jiang and Chuang 2021
    (Confident Learning, JAIR 70), section 3.1, its thresholds on the label predicted.
    """
    own = np.exp(-predictions.loss.astype(np.float64))
    count = np.bincount(predictions.label, minlength=len(predictions.labels))
    total = np.bincount(predictions.label, own, minlength=len(predictions.labels))
    # A label that no image has says nothing of how sure one can be of it.
    usual = np.where(count > 0, total / np.maximum(count, 1), 1.0)
    sure = predictions.top_scores[:, 0]
    threshold = np.maximum(usual[predictions.prediction], 0.5)
    chosen = np.flatnonzero(~predictions.right & (sure >= threshold))
    order = np.argsort(own[chosen] - sure[chosen], kind="stable")
    return [int(index) for index in chosen[order]]


def sample_right(predictions: Predictions, count: int = NUM_RIGHT) -> list[int]:
    """Right images from all over the split, the same ones each time."""
    right = np.flatnonzero(predictions.right)
    places = np.linspace(0, len(right) - 1, min(count, len(right))).round().astype(int)
    return [int(index) for index in right[places]]


def clear(run_dir: Path) -> None:
    """Remove those of an earlier run in the same place."""
    remove(run_dir / PREDICTIONS)
    with suppress(OSError):
        remove(run_dir / THUMBNAILS)


def save(
    run_dir: Path, predictions: Predictions, images: Pixels, originals: Originals | None = None
) -> None:
    """Write all predictions, and thumbnails of mistakes, suspects and some right ones.

    Args:
        run_dir: the run directory.
        predictions: one row per image.
        images: uint8 [N, C, H, W], in the same order: shown where there is no original.
        originals: where they come from, in the same order.
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
    if originals is not None:
        columns = {"index": columns.pop("index"), "key": originals.keys(), **columns}
    cropped = _save_thumbnails(run_dir, predictions, images, originals)
    about = {"labels": json.dumps(predictions.labels), "cropped": json.dumps(cropped)}
    # Complete or absent: a report may read the run at any time.
    with replacing(run_dir / PREDICTIONS, "b") as file:
        parquet.write_table(pa.table(columns).replace_schema_metadata(about), file)


def _save_thumbnails(
    run_dir: Path, predictions: Predictions, images: Pixels, originals: Originals | None
) -> list[int]:
    """Write the pictures of a report; returns those that show what the model saw."""
    folder = run_dir / THUMBNAILS
    folder.mkdir(exist_ok=True)
    doubtful = suspected(predictions)[:NUM_SUSPECTED]
    chosen = sorted({*shown_wrong(predictions), *doubtful, *sample_right(predictions)})
    found: Iterable[Image.Image | None] = [None] * len(chosen)
    if originals is not None:
        found = originals.pictures(chosen, THUMBNAIL_SIZE)
    cropped = []
    for index, picture in zip(chosen, found, strict=True):
        if picture is None:
            picture = at_most(picture_of(images[index]), THUMBNAIL_SIZE)
            cropped.append(index)
        picture.save(thumbnail(run_dir, index), quality=90)
    return cropped


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
    found = Predictions(
        labels=tuple(map(str, names)),
        **columns,
        keys=tuple(map(str, table["key"].to_pylist())) if "key" in table.column_names else (),
        cropped=_places(table.schema.metadata.get(b"cropped", b"[]")),
    )
    places = np.concatenate([found.label, found.prediction, found.top_labels.ravel()])
    if places.size and not 0 <= places.min() <= places.max() < len(found.labels):
        raise ValueError(f"{path}: a label that has no name")
    return found


def _places(text: bytes) -> frozenset[int]:
    """Numbers of images; none where that is not what it says."""
    with suppress(ValueError):
        values = json.loads(text)
        if isinstance(values, list):
            return frozenset(value for value in values if isinstance(value, int))
    return frozenset()
