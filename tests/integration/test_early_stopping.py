"""A run that no longer gains ends, on all ranks alike, with the best weights; resumed ones too."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from launching import ROOT, environment, run, warm
from vit_colossal.rundir.finished import read_run

pytestmark = pytest.mark.slow

#: Four steps an epoch; so high a rate that the first evaluations are not surpassed for long.
JOB = ("--dataset", "digits", "--model", "vit-micro", "--device", "cpu", "--no-tensorboard")
JOB += ("--max-train-samples", "64", "--max-eval-samples", "64", "--global-batch-size", "16")
JOB += ("--lr", "0.3", "--lr-schedule", "constant", "--epochs", "30", "--keep-last", "30")
JOB += ("--nproc", "2", "--plugin", "zero1", "--early-stopping-patience", "3", "--ema", "0.5")


def train(run_dir: Path, *flags: str) -> str:
    env = environment(VIT_COLOSSAL_CACHE=os.environ["VIT_COLOSSAL_CACHE"])
    command = warm(str(ROOT / "train.py"), *JOB, "--output-dir", str(run_dir), *flags)
    finished = run(command, timeout_s=180, env=env)
    assert finished.returncode == 0, finished.output
    return finished.output


def accuracies(run_dir: Path) -> list[tuple[int, float]]:
    """Step and accuracy of each evaluation; the last one is of the returned weights."""
    events = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [(e["step"], e["accuracy"]) for e in events if e["event"] == "eval"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    run_dir = tmp_path_factory.mktemp("early") / "run"
    return run_dir, train(run_dir)


def test_it_stops_after_three_evaluations_without_gain(stopped: tuple[Path, str]) -> None:
    run_dir, output = stopped
    *evaluations, (step, accuracy) = accuracies(run_dir)
    best = max(value for _, value in evaluations)
    first = next(step for step, value in evaluations if value == best)
    assert step == evaluations[-1][0] == first + 3 * 4 < 30 * 4
    assert f"stopped early after step {step}" in output
    assert accuracy == best
    assert read_run(run_dir).result.correct == round(best * 64)


def test_the_model_is_the_best_average(stopped: tuple[Path, str]) -> None:
    run_dir, _ = stopped
    saved = load_file(run_dir / "model" / "model.safetensors")
    best = load_file(run_dir / "checkpoints" / "best" / "ema.safetensors")
    last = load_file(run_dir / "checkpoints" / "last" / "ema.safetensors")
    assert saved.keys() == best.keys()
    assert all(saved[name].equal(best[name]) for name in best)
    assert not saved["classifier.weight"].equal(last["classifier.weight"])


def test_a_resumed_run_stops_where_it_would_have(stopped: tuple[Path, str], tmp_path: Path) -> None:
    run_dir, _ = stopped
    step = accuracies(run_dir)[-1][0]
    checkpoint = run_dir / "checkpoints" / f"step-{step - 4:06d}"
    output = train(tmp_path / "run", "--resume", str(checkpoint))
    assert f"stopped early after step {step}" in output


def test_a_whole_run_may_end_with_the_best_weights(
    stopped: tuple[Path, str], tmp_path: Path
) -> None:
    run_dir, output = stopped
    *_, (step, best) = accuracies(run_dir)
    assert (
        f"it has the average of the weights of the best evaluation, after step {step - 12}"
        in output
    )
    # Two evaluations without gain, and then the end: with the last weights, or with the best.
    for flag, told in (
        ("--no-save-best-model", f"of the last step, {step - 4}; the best accuracy was {best:.4f}"),
        ("--save-best-model", f"of the best evaluation, after step {step - 12}"),
    ):
        copy = tmp_path / flag
        shutil.copytree(run_dir, copy, symlinks=True)
        checkpoint = copy / "checkpoints" / f"step-{step - 8:06d}"
        output = train(copy, "--resume", str(checkpoint), "--epochs", str(step // 4 - 1), flag)
        assert f"it has the average of the weights {told}" in output
        saved = load_file(copy / "model" / "model.safetensors")
        kept = load_file(copy / "checkpoints" / "best" / "ema.safetensors")
        same = all(saved[name].equal(kept[name]) for name in kept)
        assert same == (flag == "--save-best-model")
