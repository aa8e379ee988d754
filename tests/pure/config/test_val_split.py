"""``--val-split`` as a flag holds out whatever else there is; in a file it is the share alone."""

from __future__ import annotations

from pathlib import Path

from vit_colossal.config.eval_config import EvalConfig
from vit_colossal.config.reading import load_config


def test_the_flag_overrides_the_split_that_is_found(tmp_path: Path) -> None:
    assert load_config(["--val-split", "0.2"]).eval_split == "train"
    assert load_config(["--val-split", "0.2", "--train-split", "learn"]).eval_split == "learn"
    assert load_config(["--val-split", "0.2", "--eval-split", "test"]).eval_split == "test"
    assert load_config([]).eval_split is None
    # Every config.yaml holds it.
    (tmp_path / "config.yaml").write_text("val_split: 0.1\n")
    assert load_config(["--config", str(tmp_path / "config.yaml")]).eval_split is None
    dumped = load_config(["--val-split", "0.2"]).dump()
    (tmp_path / "config.yaml").write_text(dumped)
    assert load_config(["--config", str(tmp_path / "config.yaml")]).eval_split == "train"


def test_an_evaluation_takes_the_flag_as_before() -> None:
    assert load_config(["run", "--val-split", "0.2"], kind=EvalConfig).eval_split is None
