"""``vit-colossal export``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The flags of this command."""
    parser = argparse.ArgumentParser(
        prog,
        description="Write a trained model to a new directory that needs nothing of this project.",
        allow_abbrev=False,
    )
    parser.add_argument("model", help="a run directory, a model directory or a checkpoint")
    parser.add_argument("output", type=Path, help="the directory to write")
    parser.add_argument("--checkpoint", metavar="WHICH", help="of a run: last, best, or a path")
    parser.add_argument(
        "--format",
        choices=("hf", "onnx"),
        default="hf",
        help="hf (default): config, safetensors, image processor, model card; "
        "onnx: model.onnx, compared with PyTorch on a whole split",
    )
    parser.add_argument("--dataset", help="onnx: compare on this; default the run's own")
    parser.add_argument("--eval-split", metavar="SPLIT", help="onnx: compare on this split")
    parser.add_argument("--overwrite", action="store_true", help="replace a model directory")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def main(flags: Sequence[str], prog: str) -> int:
    """Export; 1 when what was written would not compute the same."""
    parser = build_parser(prog)
    asked = parser.parse_args(flags)
    if asked.format == "hf" and (asked.dataset or asked.eval_split):
        parser.error("--dataset and --eval-split are for --format onnx")
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

        data = {"dataset": asked.dataset, "eval_split": asked.eval_split}
        config = TrainConfig(**{name: value for name, value in data.items() if value is not None})
        split = open_split(config, saved, progress=True)
        print(export_onnx(saved, asked.output, split, overwrite=asked.overwrite))
    print(f"{saved} exported to {asked.output}")
    return 0
