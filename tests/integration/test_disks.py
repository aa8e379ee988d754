"""Runs whose output folder has no room, or cannot be written to."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from launching import ROOT, Finished, environment, run, warm
from vit_colossal.checkpoints.files import newest_valid

pytestmark = pytest.mark.slow

JOB = ("--dataset", "digits", "--model", "vit-micro", "--device", "cpu", "--no-tensorboard")
JOB += ("--max-train-samples", "64", "--max-eval-samples", "8", "--global-batch-size", "16")
JOB += ("--max-steps", "6", "--save-every", "2", "--log-every", "1")


def train(run_dir: Path, *flags: str) -> Finished:
    command = warm(str(ROOT / "train.py"), *JOB, "--output-dir", str(run_dir), *flags)
    env = environment(VIT_COLOSSAL_CACHE=os.environ["VIT_COLOSSAL_CACHE"])
    return run(command, timeout_s=180, env=env)


@pytest.mark.parametrize("how", ["--no-async-save", "--async-save"])
def test_a_disk_that_fills_up(how: str, small_disk: Callable[[str], Path]) -> None:
    """There is room for one checkpoint (2.4 MB), not for a second beside it."""
    run_dir = small_disk("4m") / "run"
    finished = train(run_dir, "--nproc", "2", "--plugin", "zero1", how)
    assert finished.returncode == 1, finished.output
    assert finished.left_over == []
    lines = [line for line in finished.output.splitlines() if line.startswith("error: the check")]
    assert len(lines) == 1, finished.output
    assert "step 4 could not be written" in lines[0]
    assert "earlier checkpoints are intact" in lines[0]
    assert "Traceback" not in finished.output
    newest, skipped = newest_valid(run_dir / "checkpoints")
    assert newest is not None
    assert (newest.step, skipped) == (2, [])
    names = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert names == ["last", "step-000002"]


def test_a_folder_that_cannot_be_written_to(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("1m")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    finished = train(disk / "run", "--nproc", "2")
    assert finished.returncode == 2, finished.output
    assert finished.stderr.splitlines() == [
        f"error: --output-dir {disk / 'run'}: {disk} cannot be written to (Read-only file system): "
        "name another folder"
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    finished = train(tmp_path / "run")
    assert finished.returncode == 2, finished.output
    assert "cannot be written to" in finished.stderr
