"""A run of two pipeline stages, for what is done with a trained model."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from launching import ROOT, run, warm


@pytest.fixture(scope="session")
def trained(eleven: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of six epochs on the eleven labels.

    Its checkpoints are from two stages and hold a moving average, with which it was evaluated.
    """
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    command = warm("train.py", "--nproc", "2", "--plugin", "hybrid", "--pp", "2")
    command += ["--dataset", str(eleven), "--model", "vit-micro", "--device", "cpu"]
    command += ["--global-batch-size", "16", "--epochs", "6", "--ema", "0.9"]
    command += ["--output-dir", str(run_dir)]
    finished = run(command, timeout_s=300, cwd=ROOT)
    assert finished.returncode == 0, finished.output
    return run_dir


@pytest.fixture(scope="session")
def pictures(eleven: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 133 evaluation images as PNG files ``NUMBER-LABEL.png``, in two folders."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = datasets.load_dataset(
        "parquet", data_files=str(eleven / "validation.parquet"), split="train"
    )
    for number, row in enumerate(rows):
        place = folder / ("odd" if number % 2 else "even")
        place.mkdir(exist_ok=True)
        row["image"].save(place / f"{number:03d}-{row['label']}.png")
    return folder
