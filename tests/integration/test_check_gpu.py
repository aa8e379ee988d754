"""The script that proves the CUDA path, dry on a CPU: it must not rot where no GPU is at hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from launching import ROOT, Finished, environment, run, warm
from vit_colossal.rundir.references import Result, load_references, save_reference

pytestmark = pytest.mark.slow

PARTS = ("train", "parity", "resume", "export", "speed", "offload")


def check(folder: Path, *flags: str, device: str = "cpu") -> Finished:
    command = warm("scripts/check_gpu.py", "--device", device, "--tiny")
    command += ["--output-dir", str(folder), *flags]
    # The command's own images: it makes a cache of its own.
    return run(command, timeout_s=890, cwd=ROOT, env=environment())


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    assert found["finished"]
    return found


def test_a_dry_run_passes_all_parts(tmp_path: Path) -> None:
    finished = check(tmp_path)
    assert finished.returncode == 0, finished.output
    assert finished.left_over == []
    found = results(tmp_path)
    assert found["failed"] == 0 and found["machine"].startswith("CPU")
    rows = found["rows"]
    assert [part for part in PARTS if any(row["part"] == part for row in rows)] == list(PARTS)
    said = {(row["part"], row["what"]): (row["status"], row["text"]) for row in rows}
    assert said["train", "ddp"][0] == said["train", "gemini"][0] == "passed"
    assert said["parity", "ddp"] == (
        "passed",
        "identical steps: bf16 4/4; the rest within its spread",
    )
    status, text = said["resume", "zero1 bf16, clipped"]
    assert status == "passed"
    assert re.fullmatch(r"killed after step \d+ of 60, resumed from \d+: the same bits", text)
    assert said["export", "ONNX"][0] in ("passed", "skipped")
    assert said["export", "predict"][0] == "passed"
    assert "images/s" in said["speed", "plain loop"][1]
    assert said["speed", "ddp / plain loop"][0] in ("met", "missed")
    assert said["offload", "gemini"][0] == "skipped"
    table = finished.stdout.split("\n\n", 1)[1]
    assert "part     what" in table and "passed" in table.splitlines()[-1]
    assert {path.name for path in (tmp_path / "logs").iterdir()} >= {"train-ddp.log", "parity.log"}


def test_a_part_that_fails_is_named_and_the_next_ones_run(tmp_path: Path) -> None:
    """Judged by a reference that never erred, training cannot pass; what it left is exported."""
    results_of_three = tuple(Result(seed=n, correct=360, total=360) for n in range(3))
    values = {"results": results_of_three, "value": 1.0, "std": 0.0}
    known = load_references()["digits-pp2"]
    save_reference(known.model_copy(update=values), tmp_path / "impossible.yaml")
    flags = ["--only", "train,export", "--references", str(tmp_path / "impossible.yaml")]
    finished = check(tmp_path / "out", *flags)
    assert finished.returncode == 1, finished.output
    found = results(tmp_path / "out")
    rows = {(row["part"], row["what"]): row for row in found["rows"]}
    failed = rows["train", "ddp"]
    assert failed["status"] == "failed"
    assert failed["text"].endswith("significantly below the reference digits-pp2")
    assert failed["text"] in finished.stdout.splitlines()[2] + finished.stdout.splitlines()[3]
    assert rows["export", "predict"]["status"] == "passed"
    assert found["failed"] == 2 and "2 failed" in finished.stdout.splitlines()[-1]


def test_a_part_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    finished = check(tmp_path, "--only", "parity", "--time-limit", "1")
    assert finished.returncode == 1, finished.output
    assert finished.left_over == []
    [row] = results(tmp_path)["rows"]
    assert (row["status"], row["text"]) == ("failed", "timed out after 1 s")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so(tmp_path: Path) -> None:
    finished = check(tmp_path, device="cuda")
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.startswith("error: no CUDA device: ")
    assert len(finished.stderr.splitlines()) == 1


def test_an_unknown_part_is_named(tmp_path: Path) -> None:
    finished = check(tmp_path, "--only", "train,sped")
    assert finished.returncode == 2
    assert "--only sped: not one of train, parity" in finished.stderr
