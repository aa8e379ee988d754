"""A trained model without this project: as a Hugging Face directory, or as ONNX."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vit_colossal.data.transforms import normalize
from vit_colossal.errors import ConfigError, UserError
from vit_colossal.model.directory import save_directory
from vit_colossal.model.processor import build_processor
from vit_colossal.plan import run_folder
from vit_colossal.trained.card import model_card
from vit_colossal.trained.saved import SavedModel, load_model
from vit_colossal.trained.split import EvalSplit

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vit_colossal.plan.model_spec import ModelSpec

ONNX_FILE = "model.onnx"
#: The first operator set that PyTorch's exporter writes without converting its graph; with it come
#: files that every onnxruntime since 1.18 (2024) reads.
OPSET = 18
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_BATCH = 64
#: What a run needs as it wrote it.
_OF_A_RUN = (run_folder.MODEL, run_folder.ADAPTER, run_folder.BASE, run_folder.CHECKPOINTS)


class ExportError(UserError):
    """What was exported does not compute the same."""


@contextmanager
def new_directory(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A directory beside ``path`` that takes its place when all went well.

    Args:
        path: the final place; an empty directory there is replaced without asking.
        overwrite: replace a model directory that is there.

    Yields:
        An empty directory to fill.

    Raises:
        ConfigError: something else is there, or it cannot be written.
    """
    refuse_existing(path, overwrite=overwrite)
    unfinished = path.with_name(f".{path.name}.unfinished-{os.getpid()}")
    replaced = path.with_name(f".{path.name}.replaced-{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if path.exists():
            os.rename(path, replaced)
        os.rename(unfinished, path)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be written ({error})"]) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise ConfigError for a directory that is in the way; only a model's is ever replaced."""
    whole = path.absolute()
    if whole.name in _OF_A_RUN and (whole.parent / run_folder.CONFIG).is_file():
        raise ConfigError([f"{path} is a part of the run {path.parent}: name another"])
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path.is_dir() and (path / "config.json").is_file()):
        raise ConfigError([f"{path} exists and is no model directory: name another"])
    if not overwrite:
        raise ConfigError([f"{path} exists: add --overwrite to replace it, or name another"])


def export_hf(saved: SavedModel, directory: Path, *, overwrite: bool = False) -> None:
    """Write config, safetensors, image processor and model card, complete or not at all.

    Args:
        saved: the model; of a checkpoint the fp32 master weights.
        directory: the new directory.
        overwrite: replace a model directory that is there.

    Raises:
        ConfigError: the model cannot be loaded, or the directory not be written.
    """
    refuse_existing(directory, overwrite=overwrite)
    model = load_model(saved)
    with new_directory(directory, overwrite=overwrite) as folder:
        write_hf(saved, model, folder)


def write_hf(saved: SavedModel, model: PreTrainedModel, folder: Path) -> None:
    """The files of a Hugging Face directory."""
    save_directory(folder, model, build_processor(saved.spec))
    (folder / "README.md").write_text(model_card(saved), encoding="utf-8")


@dataclass(frozen=True)
class OnnxCheck:
    """How ONNX Runtime and PyTorch compare over a whole split.

    Attributes:
        images: how many there are; all have the same top-1 label in both.
        correct: how many of them are labelled right.
        largest_difference: between two logits.
        dataset, split: what was compared on.
    """

    images: int
    correct: int
    largest_difference: float
    dataset: str
    split: str

    def __str__(self) -> str:
        return (
            f"ONNX Runtime and PyTorch: same top-1 on {self.images} of {self.images} images "
            f"({self.dataset}, {self.split}), largest difference of logits "
            f"{self.largest_difference:.2g}; accuracy {self.correct / self.images:.4f} "
            f"({self.correct}/{self.images})"
        )


def require_onnx() -> None:
    """Raise ConfigError when the optional packages are missing."""
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            [
                f"--format onnx needs {' and '.join(missing)}: "
                f"pip install 'vit_colossal[onnx]' (or pip install {' '.join(_ONNX_PACKAGES)})"
            ]
        )


def export_onnx(
    saved: SavedModel, directory: Path, split: EvalSplit, *, overwrite: bool = False
) -> OnnxCheck:
    """Write ``model.onnx`` with config and image processor, if it computes what PyTorch does.

    The input ``pixel_values`` is fp32 [batch, 3, H, W], normalized; the output ``logits`` is
    [batch, labels]; the batch may be of any size.

    Args:
        saved: the model.
        directory: the new directory.
        split: images that both run on.
        overwrite: replace a model directory that is there.

    Raises:
        ConfigError: packages are missing, the model cannot be loaded, or the directory written.
        ExportError: an image has another top-1 label.
    """
    require_onnx()
    refuse_existing(directory, overwrite=overwrite)
    model = load_model(saved)
    with new_directory(directory, overwrite=overwrite) as folder:
        _trace(model, folder / ONNX_FILE, saved.spec)
        check = _compare(model, folder / ONNX_FILE, split)
        model.config.save_pretrained(folder)
        build_processor(saved.spec).save_pretrained(folder)
    return check


class _Logits(torch.nn.Module):
    """A model with one output."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).logits


def _trace(model: PreTrainedModel, file: Path, spec: ModelSpec) -> None:
    # Two images: a batch of one would let the exporter take its size for a constant.
    example = torch.zeros(2, spec.shape.channels, spec.image_size, spec.image_size)
    with torch.no_grad():  # see `Predictor.logits`
        torch.onnx.export(
            _Logits(model).eval(),
            (example,),
            file,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamo=True,
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
            # One file, but for weights beyond 1.5 GB: those lie beside it.
            external_data=False,
            opset_version=OPSET,
            verbose=False,
        )


def _compare(model: PreTrainedModel, file: Path, split: EvalSplit) -> OnnxCheck:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session: Any = onnxruntime.InferenceSession(
        str(file), options, providers=["CPUExecutionProvider"]
    )
    count, correct, largest = len(split.samples), 0, 0.0
    other: list[int] = []
    for start in range(0, count, _BATCH):
        images = torch.from_numpy(np.array(split.samples.images[start : start + _BATCH]))
        pixels = normalize(images, split.preprocessing)
        with torch.no_grad():  # see `Predictor.logits`
            ours = model(pixel_values=pixels).logits.numpy()
        (theirs,) = session.run(["logits"], {"pixel_values": pixels.numpy()})
        largest = max(largest, float(np.abs(ours - theirs).max()))
        predicted = ours.argmax(axis=1)
        other += (start + np.flatnonzero(predicted != theirs.argmax(axis=1))).tolist()
        correct += int((predicted == split.samples.labels[start : start + _BATCH]).sum())
    if other:
        raise ExportError(
            f"ONNX Runtime gives another top-1 label to {len(other)} of {count} images of "
            f"{split.dataset}, {split.name} (the first is image {other[0]}; largest difference of "
            f"logits {largest:.2g}): nothing was written"
        )
    return OnnxCheck(count, correct, largest, split.dataset, split.name)
