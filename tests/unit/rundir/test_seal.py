"""A finished run is what it wrote, or says which file is not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from run_directories import make_run
from vit_colossal.errors import ConfigError, ModelError
from vit_colossal.report import pictures
from vit_colossal.rundir.files import read_run_files
from vit_colossal.rundir.seal import changes_since, seal
from vit_colossal.trained.saved import locate


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """One with predictions, thumbnails and something in the place of a model."""
    run_dir = make_run(tmp_path / "run", ("cat", "dog"))
    (run_dir / "model").mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "README.md"):
        (run_dir / "model" / name).write_bytes(b"{}" * 50)
    seal(run_dir)
    return run_dir


def test_sha256sum_reads_it(run: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=run, check=True)
    assert changes_since(run) == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_any_byte_of_the_model_counts(run: Path, name: str) -> None:
    file = run / "model" / name
    content = bytearray(file.read_bytes())
    content[17] ^= 1
    file.write_bytes(content)
    (problem,) = changes_since(run, "model")
    assert problem.startswith(f"{file} was changed after it was written (SHA-256 differs): ")
    assert changes_since(run, "predictions.parquet") == []
    with pytest.raises(ModelError, match="SHA-256 differs"):
        locate(str(run))
    with pytest.raises(ModelError, match="SHA-256 differs"):
        locate(str(run / "model"))
    file.unlink()
    assert changes_since(run)[0].startswith(f"{file} is missing")


def test_people_write_in_the_card(run: Path) -> None:
    (run / "model" / "README.md").write_text("for you")
    assert changes_since(run) == []


def test_nothing_is_known_of_earlier_runs_and_a_damaged_list_is_said(run: Path) -> None:
    (run / "SHA256SUMS").write_text("nothing\n")
    with pytest.raises(ConfigError, match="line 1 is no hash"):
        changes_since(run)
    (run / "SHA256SUMS").unlink()
    assert changes_since(run) == []


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "model/../../secret"])
def test_what_lies_elsewhere_is_not_looked_at(run: Path, name: str) -> None:
    with (run / "SHA256SUMS").open("a") as sums:
        sums.write(f"{'0' * 64}  {name}\n")
    with pytest.raises(ConfigError, match="is no hash and file"):
        changes_since(run)


def test_a_report_leaves_changed_predictions_out(run: Path) -> None:
    assert read_run_files(run).predictions is not None
    file = run / "predictions.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    found = read_run_files(run)
    assert found.predictions is None
    assert any("predictions.parquet was changed" in note for note in found.notes)


@pytest.mark.parametrize("which", ["file", "folder"])
def test_a_report_shows_nothing_from_outside(run: Path, tmp_path: Path, which: str) -> None:
    found = read_run_files(run).predictions
    assert found is not None
    before = sum(map(len, pictures.pictures(run, found)))
    thumbnails = sorted((run / "thumbnails").iterdir())
    elsewhere = tmp_path / "elsewhere"
    if which == "folder":
        (run / "thumbnails").rename(elsewhere)
        (run / "thumbnails").symlink_to(elsewhere)
        assert sum(map(len, pictures.pictures(run, found))) == 0
        return
    thumbnails[0].rename(elsewhere)
    thumbnails[0].symlink_to(elsewhere)
    thumbnails[1].write_text("secret")
    assert sum(map(len, pictures.pictures(run, found))) == before - 2
