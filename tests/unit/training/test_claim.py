"""Runs that nobody has named: each has a folder of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vit_colossal.training.claim import _made


def test_runs_that_start_in_the_same_second_share_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "digits-ddp-20260101-000000"
    with ThreadPoolExecutor(16) as pool:
        made = [*pool.map(_made, [path] * 64)]
    assert len(set(made)) == 64 and path in made
    assert sorted((tmp_path / "runs").iterdir()) == sorted(made)


def test_where_no_folder_can_be_made_the_name_is_the_first(tmp_path: Path) -> None:
    """What is wrong says who takes it."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        assert _made(tmp_path / name / "run") == tmp_path / name / "run"
