"""What a person names in place of a model or a run is answered with what to name."""

from __future__ import annotations

from pathlib import Path

import pytest

from vit_colossal.errors import ConfigError
from vit_colossal.plan import run_folder
from vit_colossal.trained.export import refuse_existing
from vit_colossal.trained.saved import locate


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run as far as names go."""
    run_dir = tmp_path / "runs" / "one"
    for name in (run_folder.BASE, run_folder.CHECKPOINTS, run_folder.MODEL):
        (run_dir / name).mkdir(parents=True)
    for name in (run_folder.CONFIG, "base/config.json", "predictions.parquet"):
        (run_dir / name).write_text("{}")
    return run_dir


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("checkpoints", "is a part of a run: name the run, {run}"),
        ("base", "is a part of a run: name the run, {run}"),
        ("config.yaml", "is a file: name the folder of the model, or the run"),
        ("base/config.json", "is a file"),
        ("predictions.parquet", "is a file"),
        ("..", "is a folder of runs: name one of one"),
        ("../", "is a folder of runs: name one of one"),
    ],
)
def test_what_is_no_model(name: str, words: str, run_dir: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        locate(str(run_dir / name))
    assert words.format(run=run_dir) in str(refused.value)
    assert len(refused.value.problems) == 1


@pytest.mark.parametrize("name", ["base", "model", "checkpoints", "model/", "../one/base"])
def test_nothing_is_exported_onto_a_part_of_a_run(
    name: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_dir)
    with pytest.raises(ConfigError, match="is a part of the run"):
        refuse_existing(Path(name), overwrite=True)
    refuse_existing(Path("onnx"), overwrite=False)
