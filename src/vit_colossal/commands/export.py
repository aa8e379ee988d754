"""``vit-colossal export``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic_settings import CliPositionalArg

from vit_colossal.config.reading import read_settings
from vit_colossal.config.settings.base import CommandSettings
from vit_colossal.errors import ConfigError
from vit_colossal.text import printable


class ExportSettings(CommandSettings):
    """Write a trained model to a new directory that needs nothing of this project."""

    model: CliPositionalArg[str]
    """A run directory, a model directory or a checkpoint."""
    output: CliPositionalArg[Path]
    """The directory to write."""
    checkpoint: str | None = None
    """Of a run: last, best, or a path."""
    format: Literal["hf", "onnx"] = "hf"
    """hf: config, safetensors, image processor, model card; onnx: model.onnx, compared with PyTorch
    on a whole split."""
    dataset: str | None = None
    """onnx: compare on this; default the run's own."""
    eval_split: str | None = None
    """onnx: compare on this split."""
    overwrite: bool = False
    """Replace a model directory."""


SETTINGS = ExportSettings


def main(flags: Sequence[str], prog: str) -> int:
    """Export; 1 when what was written would not compute the same."""
    asked = read_settings(SETTINGS, flags, prog)
    if asked.format == "hf" and (asked.dataset or asked.eval_split):
        raise ConfigError(["--dataset and --eval-split are for --format onnx"])
    from vit_colossal.trained.export import export_hf, export_onnx, refuse_existing, require_onnx
    from vit_colossal.trained.saved import locate

    if asked.format == "onnx":
        require_onnx()
    refuse_existing(asked.output, overwrite=asked.overwrite)
    saved = locate(asked.model, asked.checkpoint)
    if asked.format == "hf":
        export_hf(saved, asked.output, overwrite=asked.overwrite)
    else:
        from vit_colossal.config.train_config import TrainConfig
        from vit_colossal.trained.split import open_split

        data: dict[str, Any] = {"dataset": asked.dataset, "eval_split": asked.eval_split}
        config = TrainConfig(**{name: value for name, value in data.items() if value is not None})
        split = open_split(config, saved, progress=True)
        for note in split.notes:
            print(note)
        print(export_onnx(saved, asked.output, split, overwrite=asked.overwrite))
    print(printable(f"{saved} exported to {asked.output}"))
    return 0
