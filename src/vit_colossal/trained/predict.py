"""Label images with a trained model: in batches, with the preprocessing of training."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch

from vit_colossal.data.decoding import BadImage, Row, decode_rows
from vit_colossal.data.sources.scan import scan
from vit_colossal.data.transforms import normalize
from vit_colossal.errors import ConfigError
from vit_colossal.model.preprocessing import Preprocessing
from vit_colossal.model.processor import preprocessing_of
from vit_colossal.trained.saved import SavedModel, load_model, locate

if TYPE_CHECKING:
    from PIL import Image

    #: A file's path, or an opened image.
    _Source = str | Image.Image
#: An image's name, and its uint8 pixels [C, H, W] or what is wrong with it.
_Decoded = tuple[str, np.ndarray | str]


logger = logging.getLogger("vit_colossal")

#: Images per forward pass. A CPU computes few of them faster: from 32 MiB on, glibc returns each
#: hidden state's memory to the system (ViT-tiny, 2 threads: 40 images/s at 16, 28 at 64).
BATCH_SIZES = {"cpu": 16, "cuda": 64}


class Score(NamedTuple):
    """One label and its probability."""

    label: str
    score: float


@dataclass(frozen=True)
class Prediction:
    """The best labels of one image.

    Attributes:
        file: its path as given; ``image N`` for the N-th of those given in memory.
        top: labels and probabilities, best first.
    """

    file: str
    top: tuple[Score, ...]

    @property
    def label(self) -> str:
        return self.top[0].label

    @property
    def score(self) -> float:
        return self.top[0].score

    def __str__(self) -> str:
        return f"{self.file}: {self.label} ({self.score:.4f})"


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be decoded, and why."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(frozen=True)
class PredictResult:
    """What became of all images: each is in one of the two, in the order given."""

    predictions: list[Prediction]
    unreadable: list[Unreadable]


class Predictor:
    """A trained model on its device; fp32.

    Args:
        saved: the model.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is any.

    Raises:
        ConfigError: the weights cannot be loaded, or there is no such device.
    """

    def __init__(self, saved: SavedModel, device: str = "auto") -> None:
        self.device = _device(device)
        self.labels = saved.labels
        self.preprocessing = preprocessing_of(saved.spec)
        for note in self.preprocessing.notes:
            logger.warning(note)
        self.model = load_model(saved).to(self.device)

    def logits(self, images: np.ndarray) -> torch.Tensor:
        """The outputs [B, labels] on the CPU for uint8 images [B, C, H, W] of the model's size."""
        pixels = torch.from_numpy(images).to(self.device)
        # Not in inference mode: what transformers computes of BEiT's positions it keeps for all
        # models of this process, and training could not read it.
        with torch.no_grad():
            inputs = normalize(pixels, self.preprocessing)
            return self.model(pixel_values=inputs).logits.float().cpu()

    def predict(
        self, images: Iterable[_Source], *, batch_size: int | None = None, top_k: int = 5
    ) -> Iterator[Prediction | Unreadable]:
        """Label images as they come, in their order; threads decode one batch ahead.

        Args:
            images: paths of files, or opened images.
            batch_size: images per forward pass; default `BATCH_SIZES`.
            top_k: labels per image, at most all of them.
        """
        batch_size = batch_size or BATCH_SIZES[self.device.type]
        numbered = iter(enumerate(images))
        threads = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(1) as ahead:
            decoding: Future[list[_Decoded]] | None = None
            while True:
                chunk = list(islice(numbered, batch_size))
                before, decoding = decoding, ahead.submit(self._decode, chunk, pool)
                if before is not None:
                    yield from self._label(before.result(), top_k)
                if not chunk:
                    return

    def _decode(self, chunk: list[tuple[int, _Source]], pool: Executor) -> list[_Decoded]:
        """Each image's name, and its pixels or what is wrong with it."""
        found: dict[int, np.ndarray | str] = {}
        rows = []
        for number, image in chunk:
            if not isinstance(image, str):
                found[number] = _decode_opened(image, self.preprocessing)
            elif os.path.isfile(image):
                rows.append(Row(number, {"bytes": None, "path": image}, 0))
            else:
                found[number] = "not a plain file" if os.path.exists(image) else "no such file"
        decoded = decode_rows(rows, self.preprocessing, pool)
        for row, pixels in zip(rows, decoded, strict=True):
            found[row.number] = pixels.reason if isinstance(pixels, BadImage) else pixels
        return [
            (image if isinstance(image, str) else f"image {number}", found[number])
            for number, image in chunk
        ]

    def _label(self, decoded: list[_Decoded], top_k: int) -> Iterator[Prediction | Unreadable]:
        pixels = [found for _, found in decoded if not isinstance(found, str)]
        rows: Iterator[tuple[list[float], list[int]]] = iter(())
        if pixels:
            probabilities = self.logits(np.stack(pixels)).softmax(dim=-1)
            best = probabilities.topk(min(top_k, len(self.labels)))
            rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        for name, found in decoded:
            if isinstance(found, str):
                yield Unreadable(name, found)
                continue
            scores, places = next(rows)
            top = zip(places, scores, strict=True)
            yield Prediction(name, tuple(Score(self.labels[i], score) for i, score in top))


def predict(
    model: str | Path,
    images: Sequence[str | Path | Image.Image] | str | Path | Image.Image,
    *,
    checkpoint: str | None = None,
    top_k: int = 5,
    batch_size: int | None = None,
    device: str = "auto",
) -> PredictResult:
    """Label images with a trained model, in this process.

    Args:
        model: a run directory, a model directory, the folder of a checkpoint, or a hub name.
        images: files, folders or patterns such as ``photos/*.jpg``; opened images work too. One of
            these, or several.
        checkpoint: of a run: ``last``, ``best`` or a path, instead of its final model.
        top_k: labels per image, at most all of them.
        batch_size: images per forward pass; default `BATCH_SIZES`.
        device: ``auto``, ``cuda`` or ``cpu``.

    Raises:
        ConfigError: the model cannot be used, or a number is not positive.
    """
    problems = [
        f"{name} {value}: must be at least 1"
        for name, value in (("--top-k", top_k), ("--batch-size", batch_size))
        if value is not None and value < 1
    ]
    if problems:
        raise ConfigError(problems)
    predictor = Predictor(locate(str(model), checkpoint), device)
    wanted: list[_Source] = []
    unreadable: list[Unreadable] = []
    one = isinstance(images, str) or not isinstance(images, Sequence)
    for image in cast("list[_Source | Path]", [images] if one else images):
        if isinstance(image, str | Path):
            files, missing = find_images([str(image)])
            wanted += files
            unreadable += missing
        else:
            wanted.append(image)
    predictions = []
    for found in predictor.predict(wanted, batch_size=batch_size, top_k=top_k):
        if isinstance(found, Prediction):
            predictions.append(found)
        else:
            unreadable.append(found)
    return PredictResult(predictions, unreadable)


def find_images(names: Iterable[str]) -> tuple[list[str], list[Unreadable]]:
    """The files that names stand for, each once, and what stands for none.

    Args:
        names: files; folders, which are searched for files with an image's suffix; or patterns
            with ``*``, ``?``, ``[...]`` and ``**``. What exists is taken literally.
    """
    files: dict[str, None] = {}
    missing = []
    for name in names:
        matches = [name] if os.path.lexists(name) else sorted(glob.glob(name, recursive=True))
        found = [file for match in matches for file in _files_of(match)]
        files |= dict.fromkeys(found)
        if not found:
            missing.append(Unreadable(name, _why_nothing(name, matches)))
    return list(files), missing


def _files_of(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    try:
        return [str(file) for file in scan(Path(path)).root.all_images()]
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror or error})"]) from None


def _why_nothing(name: str, matches: list[str]) -> str:
    if name.partition("://")[0] in ("http", "https", "ftp", "s3", "gs"):
        return "addresses are not fetched: download the image first"
    if matches:
        return "no images in this folder"
    return "no file matches" if glob.has_magic(name) else "no such file"


def _decode_opened(image: object, how: Preprocessing) -> np.ndarray | str:
    from PIL.Image import Image

    from vit_colossal.data.decoding import decode

    if not isinstance(image, Image):
        return f"of type {type(image).__name__}, neither a path nor an opened image"
    try:
        return decode(image, how)
    except Exception as error:  # as with files: whatever Pillow's readers raise
        return (str(error) or type(error).__name__).splitlines()[0]


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(["--device cuda: there is no CUDA device: use cpu or auto"])
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)
