"""What a person sees of a real run: on a terminal, in a log file, in its files and its report."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from launching import ROOT, Finished, environment, run, warm
from vit_colossal.cli import main
from vit_colossal.evaluation import predictions
from vit_colossal.rundir.events import EvalEvent, StartEvent, StopEvent, parse_events

JOB = ("--dataset", "digits", "--model", "vit-micro", "--device", "cpu", "--lr", "1e-3")
JOB += ("--max-train-samples", "64", "--max-eval-samples", "40", "--global-batch-size", "16")
JOB += ("--epochs", "40", "--log-every", "2", "--clip-grad-norm", "1", "--no-keep-best")
TRACKED = importlib.util.find_spec("wandb") is not None
JOB += ("--wandb",) if TRACKED else ()
PARAMETERS = 205_002


def arguments(run_dir: Path, *more: str) -> list[str]:
    """What follows ``python`` on the command line."""
    return [str(ROOT / "train.py"), *JOB, "--output-dir", str(run_dir), *more]


def settings(**more: str) -> dict[str, str]:
    cache = os.environ["VIT_COLOSSAL_CACHE"]
    return environment(VIT_COLOSSAL_CACHE=cache, WANDB_MODE="offline", **more)


def lines_of(run_dir: Path) -> list[str]:
    path = run_dir / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def on_a_terminal(command: list[str], run_dir: Path, timeout_s: float = 240) -> tuple[int, str]:
    """Run on a terminal, stop with SIGTERM after an evaluation; exit code and what was shown."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=settings(TERM="xterm")
    )
    os.close(slave)
    shown, stopped, deadline = b"", False, time.monotonic() + timeout_s
    try:
        while time.monotonic() < deadline:
            if select.select([master], [], [], 0.2)[0]:
                try:
                    chunk = os.read(master, 65536)
                except OSError:  # how Linux tells that the other side is closed
                    break
                shown += chunk
            if not stopped and sum('"eval"' in line for line in lines_of(run_dir)) >= 2:
                process.send_signal(signal.SIGTERM)
                stopped = True
        return process.wait(timeout=30), shown.decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(master)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, list[str]]:
    """A run on a terminal that was stopped: its directory, exit code, screen and events."""
    run_dir = tmp_path_factory.mktemp("watching") / "run"
    code, shown = on_a_terminal([sys.executable, *arguments(run_dir)], run_dir)
    assert main(["report", str(run_dir)]) == 0
    return run_dir, code, shown, lines_of(run_dir)


@pytest.fixture(scope="module")
def resumed(stopped: tuple[Path, int, str, list[str]]) -> Finished:
    """The same run, taken up without a terminal and brought to its end."""
    return run(warm(*arguments(stopped[0], "--resume", "auto")), timeout_s=240, env=settings())


def check_schema(lines: list[str]) -> list[Any]:
    """Every line is an event with exactly the documented fields."""
    events, others = parse_events(lines)
    assert others == 0
    assert [event.model_extra for event in events] == [{}] * len(events)
    elapsed = [event.elapsed for event in events]
    assert elapsed == sorted(elapsed)
    return events


def test_a_terminal_shows_one_bar_an_epoch(stopped: tuple[Path, int, str, list[str]]) -> None:
    _, code, shown, _ = stopped
    assert code == 143, shown
    bars = re.findall(r"epoch 2/40 (.+?) \d+/4, (.+?)\r", shown)
    assert bars, shown
    assert len(bars[0][0]) >= 2  # there is room for a bar on 80 columns, and for all words
    words = r"loss \d\.\d{4}, acc \d\.\d{4}, lr \d\.\de-\d\d, left \d\d:\d\d, \d+ img/s"
    assert re.fullmatch(words, bars[-1][1].strip()), bars
    assert bars[0][1].startswith("loss ")  # of the epoch before, until there are new ones
    # An epoch, then its evaluation; the next epoch has its accuracy.
    accuracy = re.search(r" 4/4, .*\r\nevaluation after epoch 1\.00: .*accuracy (\S+)", shown)
    assert accuracy, shown
    assert f"acc {accuracy[1]}, " in bars[-1][1]
    assert "step 2/160" not in shown  # the bar says it


def test_what_is_derived_is_told_before_training(
    stopped: tuple[Path, int, str, list[str]],
) -> None:
    _, _, shown, lines = stopped
    for text in (
        "0.21 M parameters",
        "layout: ddp, dp 1 x pp 1 x tp 1, fp32 on cpu",
        "global batch 16 = dp 1 x micro-batches 1 x size 16 x accumulation 1",
        "160 steps in 40 epochs of 4",
        "kernels: attention",
        "memory per rank: 3.1 MiB (weights 0.8, gradients 0.8, masters 0.0, moments 1.6)",
    ):
        assert text in shown
    start = check_schema(lines)[0]
    assert isinstance(start, StartEvent)
    assert (start.parameters, start.total_steps, start.global_batch) == (PARAMETERS, 160, 16)
    # Weight, gradient and two moments of four bytes each.
    assert start.state_memory_mib == pytest.approx(16 * PARAMETERS / 2**20, abs=0.06)


def test_a_stopped_run_says_so(stopped: tuple[Path, int, str, list[str]]) -> None:
    run_dir, _, _, lines = stopped
    last = check_schema(lines)[-1]
    assert isinstance(last, StopEvent)
    assert last.signal == signal.SIGTERM
    page = (run_dir / "report.html").read_text()
    assert f"stopped by SIGTERM after step {last.step}" in page


def test_without_a_terminal_there_are_plain_lines(resumed: Finished) -> None:
    assert resumed.returncode == 0, resumed.output
    assert "\r" not in resumed.output
    pattern = r"step 160/160  epoch 40\.00  loss \S+  lr \S+  \d+ images/s  peak \d+ MiB  "
    assert re.search(pattern + r"accuracy \S+  left 00:00", resumed.stdout)


def test_all_events_are_as_documented(
    stopped: tuple[Path, int, str, list[str]], resumed: Finished
) -> None:
    events = check_schema(lines_of(stopped[0]))
    kinds = [event.event for event in events]
    assert kinds.count("start") == 2
    assert (kinds.count("stop"), kinds.count("end"), kinds[-1]) == (0, 1, "end")
    steps = [event.step for event in events if event.event == "train"]
    assert steps == list(range(2, 161, 2))
    assert events[1].grad_norm > 0


def test_the_predictions_are_those_of_the_last_evaluation(
    stopped: tuple[Path, int, str, list[str]], resumed: Finished
) -> None:
    run_dir = stopped[0]
    found = predictions.load(run_dir)
    assert found is not None
    events, _ = parse_events(lines_of(run_dir))
    last = [event for event in events if isinstance(event, EvalEvent)][-1]
    assert (int(found.right.sum()), len(found)) == (last.correct, last.total)
    assert float(found.loss.mean()) == pytest.approx(last.loss, rel=1e-5)
    labels = json.loads((run_dir / "environment.json").read_text())["labels"]
    assert found.labels == tuple(labels)
    assert main(["report", str(run_dir)]) == 0
    page = (run_dir / "report.html").read_text()
    assert "finished after step 160" in page
    assert f"{last.correct} right" in page


@pytest.mark.skipif(not TRACKED, reason="wandb is not installed")
def test_a_tracker_gets_both_parts_as_one_run(
    stopped: tuple[Path, int, str, list[str]], resumed: Finished
) -> None:
    known = json.loads((stopped[0] / "trackers.json").read_text())["wandb"]
    parts = [path.name.split("-")[3] for path in (stopped[0] / "wandb").glob("offline-run-*")]
    assert parts == [known, known]
