"""What ``--plugin auto`` stands for; the real thing trains in tests/integration."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vit_colossal.config.reading import load_config
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.forecast.candidates import Candidate, Candidates
from vit_colossal.plan.checkpoint import Checkpoint, Segment
from vit_colossal.training import automatic
from vit_colossal.training.automatic import choose, flags_of
from vit_colossal.training.resuming import Origin


@pytest.fixture(autouse=True)
def upside_down(monkeypatch: pytest.MonkeyPatch) -> list[Candidate]:
    """What is found, in the order in which it is given back: as if the last were the fastest."""
    monkeypatch.delenv("RANK", raising=False)
    order: list[Candidate] = []

    def timed(found: Candidates, *rest: Any) -> tuple[Candidates, str]:
        order[:] = found.found[::-1]
        return replace(found, found=tuple(order)), ""

    monkeypatch.setattr(automatic, "timed", timed)
    return order


def asked(**settings: Any) -> TrainConfig:
    values = {"plugin": "auto", "model": "vit-micro", "dataset": "digits", "device": "cpu"}
    return TrainConfig.model_validate({**values, "global_batch_size": 16, **settings})


def test_the_first_of_the_same_rounding_is_taken(upside_down: list[Candidate]) -> None:
    changes, why = choose(asked(), 2)
    first = upside_down[0]
    assert {name: getattr(first.plan.config, name) for name in changes} == changes
    assert first.plan.config.plugin != "ddp" and first.flags in why
    # Of 16 bits, only the default plugin computes as it does.
    changes, why = choose(asked(precision="bf16"), 2)
    assert upside_down[0].plan.config.plugin != "ddp"
    assert changes["plugin"] == "ddp" and changes["global_batch_size"] == 16


def test_what_a_person_names_stays() -> None:
    changes, _ = choose(asked(pp=2, grad_checkpoint=True), 2)
    assert changes["plugin"] == "hybrid" and changes["pp"] == 2 and changes["grad_checkpoint"]


def test_the_choice_as_flags_is_the_choice() -> None:
    changes, _ = choose(asked(pp=2), 2)
    given = ["--plugin", "auto", "--model", "vit-micro", "--tp", "1", "--no-grad-checkpoint"]
    config = load_config([*given, *flags_of(changes)])
    assert {name: getattr(config, name) for name in changes} == changes
    assert flags_of({"grad_checkpoint": False, "num_microbatches": None}) == [
        "--no-grad-checkpoint"
    ]


def test_auto_is_a_name_for_training_alone() -> None:
    from vit_colossal.config.forecast_config import ForecastConfig

    assert load_config(["--plugin", "auto"]).plugin == "auto"
    with pytest.raises(ConfigError, match="--plugin auto: not one of"):
        load_config(["--plugin", "auto"], kind=ForecastConfig)


@pytest.mark.parametrize(
    ("settings", "place", "said"),
    [
        ({"batch_size": 4, "global_batch_size": None}, {}, "give --global-batch-size"),
        ({}, {"RANK": "0"}, "not under torchrun"),
        ({"model_overrides": {"hidden_size": 2**16}}, {}, "no layout of 2 processes fits"),
    ],
    ids=["batch", "torchrun", "memory"],
)
def test_what_it_refuses(
    settings: dict[str, Any],
    place: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=said):
        choose(asked(**settings), 2)


def test_a_run_that_goes_on_keeps_its_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"plugin": "zero1", "tp": 1, "pp": 1, "zero": 0, "grad_accumulation": 2}
    checkpoint = Checkpoint(tmp_path / "checkpoints" / "step", 3, {}, {})
    origin = Origin(checkpoint, tmp_path, (Segment(0, settings),), None)
    monkeypatch.setattr(automatic, "find_origin", lambda config, report: origin)
    (tmp_path / "environment.json").write_text(json.dumps({"world_size": 2}))
    changes, why = choose(asked(), 2)
    assert changes == settings and "as this run was planned" in why
    changes, why = choose(asked(), 4)
    assert changes["plugin"] != "zero1" and "planned anew for 4 processes" in why
