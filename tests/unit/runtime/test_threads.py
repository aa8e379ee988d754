"""Threads of operators: how long they wait for the next one, and how many there are."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vit_colossal.runtime.interpreter import keep_threads_awake, share_cpu

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


def test_they_wait_a_while_and_not_for_ever() -> None:
    keep_threads_awake()
    assert os.environ["OMP_WAIT_POLICY"] == "active" and int(os.environ["GOMP_SPINCOUNT"]) < 10**6


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_what_a_person_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    keep_threads_awake()
    assert [key for key in NAMES if key in os.environ] == [name]


def test_processes_share_the_cores() -> None:
    share_cpu(10_000)
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_a_command_sets_it_before_pytorch_is_there() -> None:
    """OpenMP reads it once, when PyTorch is loaded."""
    code = (
        "import os, sys; from vit_colossal.commands import run\n"
        "def main(name):\n"
        "    sys.exit('torch' in sys.modules or 'GOMP_SPINCOUNT' not in os.environ)\n"
        "run.import_module = main; run.run_command('train', [], 'x')"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
