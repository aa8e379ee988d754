"""What is said about a problem, and by which rank."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from types import SimpleNamespace

import psutil
import pytest

from launching import environment
from vit_colossal.commands import run
from vit_colossal.errors import ConfigError, ExitCode, SharedProblems
from vit_colossal.runtime.spawn import launch


def _refuse(monkeypatch: pytest.MonkeyPatch, by_rank: dict[str, str | None]) -> int:
    """Run a command in two processes that refuses in the ranks that have a problem."""

    def main(flags: list[str], prog: str) -> int:
        problem = by_rank[os.environ["RANK"]]
        if os.environ["RANK"] == "0":
            time.sleep(0.5)  # rank 1 is always first
        if problem is None:
            time.sleep(1)
            return 0
        raise ConfigError([problem])

    monkeypatch.setitem(
        sys.modules,
        "vit_colossal.commands.refuse",
        SimpleNamespace(main=main),  # type: ignore[arg-type]
    )
    monkeypatch.setattr(run, "WITHOUT_TORCH", ("refuse",))
    return launch(partial(run.run_command, "refuse", [], "refuse"), 2)


def test_rank_0_says_what_all_ranks_found(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code = _refuse(monkeypatch, {"0": "--turbo is unknown", "1": "--turbo is unknown"})
    assert code == ExitCode.USAGE
    assert capfd.readouterr().err == "error: --turbo is unknown\n"


def test_a_rank_alone_with_a_problem_says_it_itself(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "_RANK_0_SPEAKS_WITHIN_S", 0.2)
    code = _refuse(monkeypatch, {"0": None, "1": "no folder 'photos'"})
    assert code == ExitCode.USAGE
    error = capfd.readouterr().err
    assert error.startswith("error on rank 1 (") and error.endswith("no folder 'photos'\n")


@pytest.mark.parametrize("local_ranks", ["01", "00"])
def test_the_first_rank_of_each_host_says_what_all_know(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], local_ranks: str
) -> None:
    monkeypatch.setattr(run, "_RANK_0_SPEAKS_WITHIN_S", 0.2)

    def main(flags: list[str], prog: str) -> int:
        os.environ["LOCAL_RANK"] = local_ranks[int(os.environ["RANK"])]
        raise SharedProblems(["--lr: 1 on rank 0 (a), 2 on rank 1 (b)"])

    commands = SimpleNamespace(main=main)
    monkeypatch.setitem(sys.modules, "vit_colossal.commands.refuse", commands)  # type: ignore[arg-type]
    monkeypatch.setattr(run, "WITHOUT_TORCH", ("refuse",))
    assert launch(partial(run.run_command, "refuse", [], "refuse"), 2) == ExitCode.USAGE
    said = capfd.readouterr().err.splitlines()
    assert said == ["error: --lr: 1 on rank 0 (a), 2 on rank 1 (b)"] * local_ranks.count("0")


def test_a_rank_does_not_outlive_a_launcher_that_is_killed_while_it_starts() -> None:
    """torchrun has no chance to end its workers then."""
    rank = (
        "import sys, time; from types import SimpleNamespace;"
        "from vit_colossal.commands import run;"
        "run.WITHOUT_TORCH = ('slow',);"
        "main = lambda flags, prog: print('begun', flush=True) or time.sleep(600);"
        "sys.modules['vit_colossal.commands.slow'] = SimpleNamespace(main=main);"
        "run.run_command('slow', [], 'slow')"
    )
    launcher = (
        "import os, subprocess, sys;"
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE);"
        "child.stdout.readline(); print(child.pid, flush=True); child.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", launcher, rank],
        env=environment(TORCHELASTIC_RUN_ID="1"),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.kill()
    _, alive = psutil.wait_procs([child], timeout=30)
    for each in alive:
        each.kill()
    assert alive == []


def test_without_a_folder_for_temporary_files_nothing_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PyTorch's imports end in a traceback there."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/no/such/folder"])
    assert run.run_command("train", [], "train") == ExitCode.USAGE
    error = capsys.readouterr().err
    assert error.startswith("error: No usable temporary directory found in ['/no/such/folder']")
    assert error.endswith(": set TMPDIR to a folder that can be written to\n")
