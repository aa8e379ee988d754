"""Folders that a run must not be written to, or that are no model but a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from vit_colossal import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.plan.model_spec import read_spec
from vit_colossal.runtime.group import Topology
from vit_colossal.trained.evaluate import plan_evaluation
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


def test_a_run_is_no_model_to_begin_with_but_has_one(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(ConfigError, match=f"it is a run: its model is {tmp_path}/model"):
        read_spec(str(tmp_path), {})


def test_an_evaluation_is_not_rehearsed() -> None:
    with pytest.raises(ConfigError, match="--dry-run rehearses a training run: drop it"):
        plan_evaluation(TrainConfig(dry_run=True), Topology())
