"""How several problems are shown together; the single ones are the cases of ``bad_input``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vit_colossal.cli import main
from vit_colossal.commands.run import run_command

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
