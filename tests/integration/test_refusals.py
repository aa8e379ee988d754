"""Configurations that cannot run: exit code 2 and one line a problem, from the real commands."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vit_colossal.cli import main, run_command

Refused = Callable[..., list[str]]


@pytest.fixture
def refused(
    eleven: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Refused:
    """Run ``vit-colossal train`` in this process; returns the problems it printed."""
    monkeypatch.chdir(tmp_path)
    base = ["--device", "cpu", "--max-steps", "1", "--global-batch-size", "16"]
    base += ["--dataset", str(eleven), "--model", "vit-micro", "--output-dir", "run"]

    def call(*flags: str) -> list[str]:
        before = sorted(tmp_path.rglob("*"))
        assert main(["train", *base, *flags]) == 2
        output = capsys.readouterr()
        assert "Traceback" not in output.out + output.err
        assert sorted(tmp_path.rglob("*")) == before
        lines = output.err.strip().splitlines()
        first = lines[0].removeprefix("error: ")
        if len(lines) == 1:
            return [first]
        assert first == f"{len(lines) - 1} problems:"
        return [line.removeprefix("  - ") for line in lines[1:]]

    return call


HYBRID = "--plugin hybrid"
ROWS = {
    "heads": (f"--nproc 3 {HYBRID} --tp 3", "4 attention heads, not divisible by --tp 3"),
    "world": (f"--nproc 3 {HYBRID} --tp 2", "3 processes cannot be divided"),
    "world of a pipeline": (f"--nproc 2 {HYBRID} --pp 2 --tp 2", "a multiple of 4 processes"),
    "stages": (f"--nproc 8 {HYBRID} --pp 8", "--pp 8 stages for the 4 encoder layers"),
    "micro-batches": (f"--nproc 2 {HYBRID} --pp 2 --num-microbatches 1", "--num-microbatches 2"),
    "micro-batch size": (f"--nproc 2 {HYBRID} --pp 2 --microbatch-size 3", "--microbatch-size 3"),
    "batch": ("--nproc 3", "--global-batch-size 16 is not divisible by 3"),
    "accumulation": ("--grad-accumulation 3", "--grad-accumulation 3"),
    "zero 2 in hybrid": (f"--nproc 2 {HYBRID} --zero 2", "use --zero 1, or --plugin zero2"),
    "zero 2 with pp": (f"--nproc 2 {HYBRID} --pp 2 --zero 2", "use --zero 1, or --plugin zero2"),
    "fp32 gemini": ("--plugin gemini --precision fp32", "refuses --precision fp32"),
    "fp32 zero 1": (f"--nproc 2 {HYBRID} --zero 1 --precision fp32", "refuses --precision fp32"),
    "ignored tp": ("--nproc 2 --plugin zero1 --tp 2", "--tp 2 has no effect with --plugin zero1"),
    "ignored pp": ("--nproc 2 --plugin gemini --pp 2", "--pp 2 has no effect with --plugin gemini"),
    "ignored zero": ("--nproc 2 --zero 1", "--zero 1 has no effect with --plugin ddp"),
    "unknown flag": ("--turbo", "--turbo: no such flag"),
    "unknown flag with value": ("--turbo=3", "--turbo=3: no such flag"),
    "stray word": ("turbo", "turbo: no such flag"),
    "unknown plugin": ("--plugin fsdp", "--plugin fsdp"),
    "no data": ("--dataset ./nowhere", "./nowhere"),
    "no split": ("--eval-split nowhere", "--eval-split nowhere: no such split"),
    "no column": ("--label-column nowhere", "--label-column nowhere: no such column"),
    "no model": ("--model ./nowhere", "--model ./nowhere"),
    "no config": ("--config nowhere.yaml", "--config nowhere.yaml: cannot be read"),
    "few images": ("--global-batch-size 256", "200 images, fewer than one global batch of 256"),
    "fewer images": ("--max-train-samples 8", "8 images, fewer than one global batch of 16"),
    "no cuda": ("--device cuda --nproc 128", "--device cuda"),
    "two batches": ("--batch-size 4", "exclude each other"),
    "a file as output": ("--output-dir /dev/null", "--output-dir /dev/null: /dev/null is a file"),
}


@pytest.mark.parametrize("name", ROWS)
def test_exit_code_2_and_the_flag_to_change(name: str, refused: Refused) -> None:
    flags, text = ROWS[name]
    assert any(text in line for line in refused(*flags.split()))


def test_problems_of_all_kinds_are_shown_at_once(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("turbo: true\nlr: -1\n")
    flags = "--config run.yaml --nproc 3 --plugin hybrid --tp 3 --pp 9 --zero 2 --seed x --warp"
    found = refused(*flags.split())
    texts = (
        "turbo",
        "--lr -1",
        "--tp 3",
        "--pp 9",
        "--zero 2",
        "--seed x",
        "--warp",
        "3 processes",
    )
    for text in texts:
        assert any(text in line for line in found), text


@pytest.mark.parametrize(
    ("flags", "texts"),
    [
        ("--dataset ./nowhere --zero 1", ("./nowhere", "--zero 1")),
        ("--output-dir /dev/null --zero 1", ("/dev/null", "--zero 1")),
        ("--device cuda --nproc 128 --zero 1", ("--device cuda", "--zero 1")),
        ("--model ./nowhere --dataset ./nothere", ("./nowhere", "./nothere")),
    ],
)
def test_missing_files_are_shown_with_the_rest(
    flags: str, texts: tuple[str, ...], refused: Refused
) -> None:
    found = refused(*flags.split())
    assert all(any(text in line for line in found) for text in texts)


def test_a_run_directory_that_cannot_be_made(refused: Refused) -> None:
    (line,) = refused("--output-dir", "/dev/null/run")
    assert "--output-dir /dev/null/run" in line


def test_nproc_in_a_file_is_refused_or_honoured(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("nproc: 2\n")
    (line,) = refused("--config", "run.yaml")
    assert "nproc" in line
    assert "torchrun" not in line


def test_nproc_under_a_launcher(monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    values = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    (line,) = refused("--nproc", "2")
    assert "--nproc cannot be used under torchrun" in line


def test_only_rank_0_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "--turbo"]) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "values",
    [
        {"RANK": "0"},
        {"WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "x"},
        {"RANK": "x", "WORLD_SIZE": "2"},
    ],
    ids=["rank alone", "world size alone", "world size is no number", "rank is no number"],
)
def test_a_broken_launcher_environment(
    values: dict[str, str], monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"} if len(values) == 2 else {}
    for name, value in (values | address).items():
        monkeypatch.setenv(name, value)
    (line,) = refused()
    assert line.startswith("environment:")


def test_debug_shows_where_a_problem_was_found(
    refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("train", ["--debug", "--turbo"], prog="train.py") == 2
    assert "Traceback" in capsys.readouterr().err


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    help_text = capsys.readouterr().out
    assert "train" in help_text
    assert "eval" in help_text
    assert main([]) == 2
    assert main(["trian"]) == 2
    assert "no command 'trian'" in capsys.readouterr().err


def test_nothing_here_formed_a_process_group() -> None:
    import torch.distributed as dist

    assert not dist.is_initialized()
    assert "RANK" not in os.environ
