"""A real calibration: two processes, a small model, the times of its layouts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from launching import ROOT, environment, run, warm
from vit_colossal.forecast.rates import read_rates


def test_a_machine_is_measured_once(tmp_path: Path) -> None:
    command = warm("-m", "vit_colossal", "plan", "--nproc", "2", "--measure", "--device", "cpu")
    command += ["--model", "vit-micro", "--num-labels", "10", "--global-batch-size", "16"]
    command += ["--cache-dir", str(tmp_path), "--format", "json", "--precision", "bf16"]
    first = run(command, timeout_s=180, env=environment())
    assert first.returncode == 0 and "measuring on 2 processes" in first.stderr, first.output
    assert not first.left_over
    [file] = (tmp_path / "rates").iterdir()
    rates = read_rates(file)
    assert rates.seconds > 0 and 0 <= rates.slowdown <= 1
    # One process alone is not slower than two.
    assert rates.share.sizes == (1, 2) and rates.share.seconds[1] == 1.0
    # Twice as many bytes take longer, and one more image too.
    sums = rates.transfers["all_reduce among 2, 4 bytes"]
    assert sums.seconds[-1] > sums.seconds[0] > 0
    measured = {"autocast, tp 1", "16-bit weights, tp 1", "16-bit weights, tp 2"}
    assert set(rates.pieces) == measured
    rows = json.loads(first.stdout)["candidates"]
    assert {row["plugin"] for row in rows} == {"ddp", "zero1", "zero2", "gemini", "hybrid"}
    assert all(row["step_seconds"] > 0 for row in rows)
    best = min(rows, key=lambda row: row["step_seconds"])
    assert rows[0] == best
    second = run(command, timeout_s=180, env=environment())
    assert second.returncode == 0 and "measuring" not in second.stderr, second.output
    assert json.loads(second.stdout)["candidates"] == rows


@pytest.mark.slow
def test_auto_is_planned_recorded_and_kept(tmp_path: Path) -> None:
    command = warm("train.py", "--nproc", "2", "--plugin", "auto", "--device", "cpu")
    command += ["--model", "vit-micro", "--dataset", "digits", "--global-batch-size", "16"]
    command += ["--cache-dir", str(tmp_path / "cache"), "--output-dir", str(tmp_path / "run")]
    command += ["--max-train-samples", "64", "--max-eval-samples", "32", "--no-tensorboard"]
    first = run([*command, "--max-steps", "2", "--save-every", "1"], timeout_s=300, cwd=ROOT)
    assert first.returncode == 0 and "--plugin auto: --plugin " in first.stdout, first.output
    recorded = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    chosen = re.search(r"--plugin auto: --plugin (\w+)", first.stdout)
    assert chosen is not None and recorded["plugin"] == chosen[1]
    again = run([*command, "--max-steps", "3", "--resume", "auto"], timeout_s=300, cwd=ROOT)
    assert again.returncode == 0, again.output
    assert f"--plugin {chosen[1]}, as this run was planned" in again.stdout
