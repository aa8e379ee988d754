"""Folders that a run must not be written to, or that are no model but a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from vit_colossal import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.plan.model_spec import read_spec
from vit_colossal.rundir.data_record import DataRecord
from vit_colossal.runtime.group import Topology
from vit_colossal.trained.evaluate import plan_evaluation
from vit_colossal.training.folders import path_problems
from vit_colossal.training.resuming import Origin, where_data_lie
from vit_colossal.training.run import plan_run


@pytest.mark.parametrize("flag", ["dataset", "model"])
@pytest.mark.parametrize(
    "place", ["photos", "./photos/", "link", "photos/../photos", "{here}/photos"]
)
def test_a_run_is_not_written_into_what_it_reads(
    flag: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    values = {"model": "vit-micro", "dataset": "digits", flag: "photos"}
    config = TrainConfig(device="cpu", output_dir=Path(place.format(here=tmp_path)), **values)
    with pytest.raises(ConfigError, match=f"is the folder of --{flag}: name another"):
        plan_run(config, Topology())


@pytest.mark.parametrize(
    ("left", "is_kept"),
    [("environment.json", False), ("checkpoints/step-000004/state.json", True)],
)
def test_a_run_that_could_not_start_is_no_run_to_keep(
    left: str, is_kept: bool, tmp_path: Path
) -> None:
    """The second try, after a login was mended, is the same command."""
    for name in ("config.yaml", "metrics.jsonl", left):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    problems = path_problems(TrainConfig(output_dir=tmp_path))
    assert any("holds a run" in problem for problem in problems) is is_kept


def test_a_run_is_no_model_to_begin_with_but_has_one(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(ConfigError, match=f"it is a run: its model is {tmp_path}/model"):
        read_spec(str(tmp_path), {})


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("base", "a part of a run, without weights: its model is "),
        ("checkpoints/last", "export makes a model of it, vit-colossal export "),
    ],
)
def test_nor_is_a_part_of_it(part: str, words: str, tmp_path: Path) -> None:
    (tmp_path / part).mkdir(parents=True)
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "base" / "config.json").parent.mkdir(exist_ok=True)
    (tmp_path / "base" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=words):
        read_spec(str(tmp_path / part), {})


def test_data_that_are_gone_are_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / "there" / "photos")
    record = DataRecord(dataset="photos", labels=("a", "b"), fingerprint="f", path=path)
    origin = Origin(cast(Any, None), tmp_path, (), record)
    config = TrainConfig(dataset="photos")
    with pytest.raises(ConfigError, match=r"neither here nor at .*/there/photos, where the run"):
        where_data_lie(config, origin)
    (tmp_path / "there" / "photos").mkdir(parents=True)
    assert where_data_lie(config, origin)[0].dataset == record.path
    assert where_data_lie(config.replace(dataset="others"), origin)[0].dataset == "others"


def test_an_evaluation_is_not_rehearsed() -> None:
    with pytest.raises(ConfigError, match="--dry-run rehearses a training run: drop it"):
        plan_evaluation(TrainConfig(dry_run=True), Topology())
