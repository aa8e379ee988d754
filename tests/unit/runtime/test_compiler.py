"""Compiled code is read back from a folder that only its user can write to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from vit_colossal import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.runtime.compiler import cache_problems
from vit_colossal.runtime.group import Topology
from vit_colossal.training.run import plan_run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where PyTorch keeps it by itself."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    return Path(default_cache_dir())


def test_one_s_own_folder_is_made_and_taken(folder: Path) -> None:
    assert cache_problems() == []
    assert cache_problems() == [] and folder.is_dir()
    folder.chmod(0o775)  # users with a group of their own
    assert cache_problems() == []


def test_one_that_others_can_write_to_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    (problem,) = cache_problems()
    assert str(folder) in problem and "set TORCHINDUCTOR_CACHE_DIR" in problem
    config = TrainConfig(compile=True, dataset="digits", model="vit-micro", device="cpu")
    with pytest.raises(ConfigError, match="others can put code into"):
        plan_run(config, Topology())
    # What a person has named is that person's decision.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder.parent))
    folder.parent.chmod(0o777)
    assert cache_problems() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_one_of_another_user_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    os.chown(folder, 65534, 65534)
    (problem,) = cache_problems()
    assert "others can put code into" in problem


@pytest.mark.parametrize("there", ["file", "link"])
def test_what_is_no_folder_is_said(there: str, folder: Path) -> None:
    folder.touch() if there == "file" else folder.symlink_to("nowhere")
    (problem,) = cache_problems()
    assert "no folder for compiled code" in problem and str(folder) in problem
