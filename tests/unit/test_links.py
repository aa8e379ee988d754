"""A run writes into its own folder alone: no link is followed, no other name of a file changed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from bad_files import folder
from vit_colossal.cli import main

FLAGS = "train --device cpu --model vit-micro --dataset photos --global-batch-size 4"
FLAGS += " --no-tensorboard --lr 1e-3 --lr-schedule constant --warmup-ratio 0"
FLAGS += " --save-every 2 --max-steps 2 --output-dir run"


def train(*more: str) -> int:
    return main([*FLAGS.split(), *more])


def contents(root: Path) -> dict[str, bytes | str]:
    """Every file below a folder, and where every link leads."""
    return {
        str(path): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, and a run of two steps on them."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        folder()
        assert train() == 0
    return root


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here" / "run"


def moved(run: Path, *names: str) -> Path:
    """Put parts of a run elsewhere, with links in their places."""
    elsewhere = run.parent / "elsewhere"
    elsewhere.mkdir()
    for name in names:
        (run / name).rename(elsewhere / name)
        (run / name).symlink_to(elsewhere / name)
    return elsewhere


def test_a_copy_by_hard_links_keeps_what_it_had(run: Path) -> None:
    backup = run.parent / "backup"
    shutil.copytree(run, backup, copy_function=os.link, symlinks=True)
    before = contents(backup)
    assert train("--resume", "auto", "--max-steps", "4") == 0
    assert main(["report", "run"]) == 0
    assert contents(backup) == before


def test_a_run_that_goes_on_follows_no_link(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {path.name for path in run.iterdir()} - {"checkpoints", ".lock"}
    assert {"model", "base", "thumbnails", "metrics.jsonl", "SHA256SUMS"} <= names
    elsewhere = moved(run, *names)
    before = contents(elsewhere)
    assert main(["report", "run"]) == 2
    assert "run/config.yaml is a link to " in capsys.readouterr().err
    assert train("--resume", "auto", "--max-steps", "4") == 0
    assert [path for path in run.iterdir() if path.is_symlink()] == []
    assert main(["report", "run"]) == 0
    assert contents(elsewhere) == before


def test_beginning_anew_leaves_what_links_lead_to_and_takes_nothing_of_it(run: Path) -> None:
    """A checkpoint of the run before would be kept for one of this run."""
    elsewhere = moved(run, "checkpoints", "model", "thumbnails")
    before = contents(elsewhere)
    assert train("--overwrite", "--seed", "9") == 0
    assert contents(elsewhere) == before
    (new,) = run.glob("checkpoints/step-*")
    (old,) = elsewhere.glob("checkpoints/step-*")
    weights = [(place / "weights.safetensors").read_bytes() for place in (new, old)]
    assert weights[0] != weights[1]
    assert not (run / "model").is_symlink() and not (run / "thumbnails").is_symlink()


def test_names_that_can_be_foreseen_are_no_way_out(run: Path) -> None:
    victim = run.parent / "victim"
    victim.write_text("mine")
    names = ["config.yaml", "data.json", "environment.json", "metrics.jsonl", "segments.jsonl"]
    names += ["predictions.parquet", "report.html", "SHA256SUMS", "model/README.md"]
    for name in names:
        path = run / name
        for ending in (f".unfinished-{os.getpid()}", ".unfinished", f".{os.getpid()}", ""):
            planted = path.with_name(f".{path.name}{ending}")
            planted.symlink_to(victim)
    for step in ("step-000004", ".unfinished-step-000004", ".deleted-step-000002"):
        (run / "checkpoints" / step).symlink_to(run.parent)
    (run / "checkpoints" / f".unfinished-step-000004-{os.getpid()}").symlink_to(run.parent)
    assert train("--resume", "auto", "--max-steps", "4") == 0
    assert main(["report", "run"]) == 0
    assert main(["runs", ".", "--output", "runs.csv"]) == 0
    assert victim.read_text() == "mine"
    assert not (run / "checkpoints" / "step-000004").is_symlink()
    assert sorted(path.name for path in run.parent.iterdir()) == [
        *("photos", "run", "runs.csv", "victim")
    ]


def test_a_lock_that_is_a_link_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victim = run.parent / "victim"
    victim.write_text("mine")
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(victim)
    assert train("--resume", "auto", "--max-steps", "4") == 2
    assert "its .lock is a link" in capsys.readouterr().err
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "segments.jsonl"])
def test_a_report_shows_no_file_of_another(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = run.parent / "secret.json"
    secret.write_text(json.dumps({"auths": {"registry": "c2VjcmV0"}}))
    (run / name).unlink()
    (run / name).symlink_to(secret)
    assert main(["report", "run"]) == 2
    assert f"run/{name} is a link to {secret}: put the file itself" in capsys.readouterr().err
    assert not (run / "report.html").exists()
    for command in (["runs", "."], ["check", "run"], ["push", "run", "me/it", "--dry-run"]):
        main(command)
        said = capsys.readouterr()
        assert "c2VjcmV0" not in said.out + said.err


@pytest.mark.timeout(60)
def test_a_pipe_is_not_waited_for(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    assert main(["runs", "."]) == 0
    assert "metrics.jsonl is unreadable" in capsys.readouterr().out
    assert main(["report", "run"]) == 0
    assert main(["check", "run"]) == 2
    assert "it is no file" in capsys.readouterr().err
