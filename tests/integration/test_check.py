"""`train.py --check-reference` on real runs: a good one passes, planted regressions exit with 3."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from launching import ROOT, Finished, environment, run, warm
from vit_colossal.cli import main
from vit_colossal.data import cache_entry

#: Three epochs on the digits: about 93 % right.
SHORT = ("--dataset", "digits", "--model", "vit-micro", "--device", "cpu", "--seed", "1")
SHORT += ("--global-batch-size", "32", "--epochs", "3")
PIPELINE = ("--nproc", "2", "--plugin", "hybrid", "--pp", "2")

pytestmark = pytest.mark.slow


def train(output: Path, *flags: str, cache: Path | None = None) -> Finished:
    """Run train.py with the short recipe."""
    env = environment(VIT_COLOSSAL_CACHE=str(cache or os.environ["VIT_COLOSSAL_CACHE"]))
    command = warm("train.py", *SHORT, "--output-dir", str(output), *flags)
    return run(command, timeout_s=300, cwd=ROOT, env=env)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the entry ``short``, recorded from one honest run on one process."""
    folder = tmp_path_factory.mktemp("short")
    finished = train(folder / "run")
    assert finished.returncode == 0, finished.output
    path = folder / "references.yaml"
    flags = ["--record", "short", "--command", "train.py", "--references", str(path)]
    assert main(["check", str(folder / "run"), *flags]) == 0
    return path


@pytest.fixture(scope="module")
def against(references: Path) -> tuple[str, ...]:
    return ("--check-reference", "short", "--references", str(references))


def test_a_good_run_in_two_stages_passes(
    tmp_path: Path, references: Path, against: tuple[str, ...]
) -> None:
    finished = train(tmp_path / "run", *PIPELINE, *against)
    assert finished.returncode == 0, finished.output
    assert finished.stdout.count("is not significantly below") == 1
    assert finished.left_over == []
    # The directory gives the same answer afterwards, also when no reference is named.
    command = warm("-m", "vit_colossal", "check", str(tmp_path / "run"))
    again = run([*command, "--references", str(references)], timeout_s=60)
    assert again.returncode == 0, again.output
    assert "is not significantly below" in again.stdout


def test_a_learning_rate_of_zero_is_exit_code_3(tmp_path: Path) -> None:
    """The shipped configuration against the shipped reference, as CI runs them."""
    flags = ["--config", "configs/digits_cpu_pp2.yaml", "--nproc", "2", "--lr", "0"]
    flags += ["--max-steps", "5", "--check-reference", "digits-pp2"]
    command = warm("train.py", *flags, "--output-dir", str(tmp_path / "run"))
    finished = run(command, timeout_s=300, cwd=ROOT)
    assert finished.returncode == 3, finished.output
    assert finished.stdout.count("FAILED") == 1
    assert "lr: 0.0 here, 0.001 in the reference" in finished.stdout
    assert finished.stderr.count("error:") == 0
    assert finished.left_over == []
    assert main(["check", str(tmp_path / "run")]) == 3


def test_shuffled_labels_are_exit_code_3(tmp_path: Path, against: tuple[str, ...]) -> None:
    """A fault between the data, whose fingerprint is right, and the training: in what builds it."""
    cache = tmp_path / "cache"
    shutil.copytree(os.environ["VIT_COLOSSAL_CACHE"], cache)
    shuffled = 0
    for path in cache.glob("*/labels.npy"):
        labels = np.load(path)
        if len(labels) == 1437:
            labels = np.random.RandomState(0).permutation(labels)
            np.save(path, labels)
            meta = json.loads((path.parent / "meta.json").read_text())
            meta["sha256"] = cache_entry._seal(meta, labels, np.load(path.parent / "checksums.npy"))
            (path.parent / "meta.json").write_text(json.dumps(meta))
            shuffled += 1
    assert shuffled
    finished = train(tmp_path / "run", *against, cache=cache)
    assert finished.returncode == 3, finished.output
    assert "FAILED" in finished.stdout


def test_what_cannot_be_compared_is_refused_before_training(
    tmp_path: Path, against: tuple[str, ...]
) -> None:
    for flags, problem in (
        (("--max-eval-samples", "100"), "evaluation images: 100 here, 360"),
        (("--eval-split", "train"), "data fingerprint"),
        (("--model", "vit-tiny"), "model: vit-tiny here"),
        (("--check-reference", "shrot"), "known: short"),
    ):
        finished = train(tmp_path / "run", *PIPELINE, *against, *flags)
        assert finished.returncode == 2, finished.output
        assert problem in finished.stderr
        assert not (tmp_path / "run").exists()


def test_a_run_that_was_killed_is_no_pass(tmp_path: Path, references: Path) -> None:
    """What a killed run leaves: its last lines are missing."""
    source = references.parent / "run"
    shutil.copytree(source, tmp_path / "run", ignore=shutil.ignore_patterns("model"))
    lines = (source / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["event"] == "end"
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(lines[:-2]) + "\n")
    assert main(["check", str(tmp_path / "run"), "--references", str(references)]) == 2
