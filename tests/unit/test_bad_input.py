"""Every case of ``bad_input``, through the CLI's ``main``, in this process."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import psutil
import pytest

from bad_input import ALL, CATEGORIES
from fuzzing import fuzz
from refusals import arguments, check, held, tree
from vit_colossal.cli import main

#: What a launcher would have set.
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ALL)
def test_a_bad_input_is_refused(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    case = ALL[name]
    # Libraries log to the stderr of the test that imported them, which is closed.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("VIT_COLOSSAL_CACHE", str(tmp_path / "cache"))
    for variable in LAUNCHER:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in case.environment.items():
        monkeypatch.setenv(variable, value)
    if case.make is not None:
        case.make()
    with held(case.held):
        before, children = tree(folder), psutil.Process().children(recursive=True)
        capfd.readouterr()
        try:
            code = main(arguments(case))
        except SystemExit as stop:
            code = int(stop.code or 0)
        output = capfd.readouterr()
        assert psutil.Process().children(recursive=True) == children
        assert tree(folder) == before
    check(case, code, output.out, output.err)
    assert not list((tmp_path / "cache").rglob("*.partial*"))


def test_the_table_is_long_enough() -> None:
    assert sum(map(len, CATEGORIES.values())) == len(ALL) >= 150
    assert 12 <= sum(case.real for case in ALL.values()) <= 24
    assert all(len(cases) >= 10 for cases in CATEGORIES.values())


def test_nothing_here_formed_a_process_group() -> None:
    import torch.distributed as dist

    assert not dist.is_initialized()
    assert "RANK" not in os.environ


def test_a_sample_of_configurations_is_planned_or_refused() -> None:
    """``scripts/fuzz_config.py`` tries thousands."""
    counts = fuzz(100, start=7)
    assert sum(counts.values()) >= 100
    assert counts["planned"] > 0
    assert counts["refused"] > 0
