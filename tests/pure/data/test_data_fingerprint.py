"""Digests of files: the content decides, and unchanged files are not read again."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from vit_colossal.data.sources import fingerprint
from vit_colossal.data.sources.fingerprint import content_of


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    root = tmp_path / "data"
    root.mkdir()
    for name in ("a", "b", "caf\u00e9 \u732b"):
        (root / name).write_text(f"content of {name}")
    return sorted(root.iterdir())


def digest(files: list[Path], memory: Path) -> str:
    return content_of(files[0].parent, files, memory)


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the files had been written long ago."""
    monkeypatch.setattr(fingerprint, "_SETTLED_SECONDS", -1.0)


def test_the_digest_follows_from_names_and_contents_alone(
    files: list[Path], tmp_path: Path
) -> None:
    before = digest(files, tmp_path / "m1")
    assert digest(files[::-1], tmp_path / "m2") == before
    os.utime(files[0], (1, 1))
    assert digest(files, tmp_path / "m3") == before
    assert digest(files[1:], tmp_path / "m4") != before
    files[0].write_text("content of B")
    assert digest(files, tmp_path / "m5") != before


def test_unchanged_files_are_not_read_again(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    before = digest(files, tmp_path / "memory")
    (kept,) = (tmp_path / "memory").iterdir()
    known = json.loads(kept.read_text())
    assert set(known) == {file.name for file in files}
    # What is remembered is believed: the only way to see that the file was not read.
    known["a"][1] = "0" * 64
    kept.write_text(json.dumps(known))
    assert digest(files, tmp_path / "memory") != before


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_changed_file_is_read_again(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_times: bool
) -> None:
    settle(monkeypatch)
    before = digest(files, tmp_path / "memory")
    status = files[0].stat()
    time.sleep(0.02)  # the resolution of file times
    files[0].write_bytes(files[0].read_bytes()[::-1])
    if keep_times:
        os.utime(files[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest(files, tmp_path / "memory") != before


def test_young_files_are_not_remembered(files: list[Path], tmp_path: Path) -> None:
    digest(files, tmp_path / "memory")
    assert not (tmp_path / "memory").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": [[1], 2, 3]}'])
def test_a_damaged_memory_is_forgotten(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    settle(monkeypatch)
    before = digest(files, tmp_path / "memory")
    (kept,) = (tmp_path / "memory").iterdir()
    kept.write_text(content)
    assert digest(files, tmp_path / "memory") == before


def test_a_memory_that_cannot_be_written_is_no_problem(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    (tmp_path / "file").write_text("in the way")
    assert digest(files, tmp_path / "file") == digest(files, tmp_path / "memory")
