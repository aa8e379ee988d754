"""A real calibration: two processes, a small model, the times of its layouts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from launching import ROOT, Finished, environment, run, torchrun, warm
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
    assert set(rates.pieces) == measured | {f"{key}, checkpointed" for key in measured}
    assert all(min(pieces.block_backward.seconds) > 0 for pieces in rates.pieces.values())
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
    """Measured under torchrun; the launcher of --nproc finds the same rates, and one process alone
    measures its own."""
    flags = ["--plugin", "auto", "--device", "cpu", "--cache-dir", str(tmp_path / "cache")]
    flags += ["--model", "vit-micro", "--dataset", "digits", "--global-batch-size", "16"]
    flags += ["--max-train-samples", "64", "--max-eval-samples", "32", "--no-tensorboard"]
    flags += ["--lr-schedule", "constant", "--warmup-ratio", "0"]

    def trained(command: list[str], folder: str, *more: str) -> Finished:
        into = ["--output-dir", str(tmp_path / folder), *more]
        done = run([*command, *flags, *into], timeout_s=300, cwd=ROOT)
        assert done.returncode == 0 and not done.left_over, done.output
        return done

    script = str(ROOT / "train.py")
    started, own = torchrun(2, script), warm(script, "--nproc", "2")
    half = ("--max-steps", "2", "--save-every", "1")
    first = trained(started, "started", *half)
    chosen = re.search(r"--plugin auto: --plugin (\w+)", first.stdout)
    assert chosen is not None and "measuring on 2 processes" in first.stderr, first.output
    recorded = yaml.safe_load((tmp_path / "started" / "config.yaml").read_text())
    assert recorded["plugin"] == chosen[1]
    second = trained(own, "own", *half)
    assert chosen[0] in second.stdout and "measuring" not in second.stderr, second.output
    weights = [tmp_path / name / "model" / "model.safetensors" for name in ("started", "own")]
    # What was measured before leaves no trace in what is trained.
    assert weights[0].read_bytes() == weights[1].read_bytes()
    again = trained(started, "own", "--max-steps", "3", "--resume", "auto")
    assert f"--plugin {chosen[1]}, as this run was planned" in again.stdout, again.output
    alone = trained(warm(script), "own", "--max-steps", "4", "--resume", "auto")
    assert "--plugin auto: planned anew for 1 process: --plugin " in alone.stdout, alone.output
