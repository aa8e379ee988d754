"""What ``--plugin auto`` stands for; the real thing trains in tests/integration."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vit_colossal.calibration.calibrate import in_own_processes
from vit_colossal.config.reading import load_config
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.forecast.candidates import Candidate, Candidates
from vit_colossal.forecast.devices import room_here
from vit_colossal.plan.checkpoint import Checkpoint, Segment
from vit_colossal.training import automatic
from vit_colossal.training.automatic import Sight, choose, decide, flags_of
from vit_colossal.training.resuming import Origin


@pytest.fixture(autouse=True)
def upside_down(monkeypatch: pytest.MonkeyPatch) -> list[Candidate]:
    """What is found, in the order in which it is given back: as if the last were the fastest."""
    order: list[Candidate] = []

    def with_times(found: Candidates, *rest: Any) -> Candidates:
        order[:] = found.found[::-1]
        return replace(found, found=tuple(order))

    monkeypatch.setattr(automatic, "rates_of", lambda *rest, **options: (None, ""))
    monkeypatch.setattr(automatic, "with_times", with_times)
    return order


def asked(**settings: Any) -> TrainConfig:
    values = {"plugin": "auto", "model": "vit-micro", "dataset": "digits", "device": "cpu"}
    return TrainConfig.model_validate({**values, "global_batch_size": 16, **settings})


def test_the_first_of_the_same_rounding_is_taken(upside_down: list[Candidate]) -> None:
    choice = choose(asked(), 2)
    first = upside_down[0]
    assert choice.settings == {**first.choice, "global_batch_size": 16}
    assert first.plan.config.plugin != "ddp" and first.flags in choice.why
    # Of 16 bits, only the default plugin computes as it does.
    settings = choose(asked(precision="bf16"), 2).settings
    assert upside_down[0].plan.config.plugin != "ddp"
    assert settings["plugin"] == "ddp" and settings["global_batch_size"] == 16


def test_what_a_person_names_stays() -> None:
    settings = choose(asked(pp=2, grad_checkpoint=True), 2).settings
    assert settings["plugin"] == "hybrid" and settings["pp"] == 2 and settings["grad_checkpoint"]


def test_the_choice_as_flags_is_the_choice() -> None:
    settings = choose(asked(pp=2), 2).settings
    given = ["--plugin", "auto", "--model", "vit-micro", "--tp", "1", "--no-grad-checkpoint"]
    config = load_config([*given, *flags_of(settings)])
    assert {name: getattr(config, name) for name in settings} == settings
    assert flags_of({"grad_checkpoint": False, "num_microbatches": None}) == [
        "--no-grad-checkpoint"
    ]


def test_auto_is_a_name_for_training_alone() -> None:
    from vit_colossal.config.forecast_config import ForecastConfig

    assert load_config(["--plugin", "auto"]).plugin == "auto"
    with pytest.raises(ConfigError, match="--plugin auto: not one of"):
        load_config(["--plugin", "auto"], kind=ForecastConfig)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": 4, "global_batch_size": None}, "give --global-batch-size"),
        ({"model_overrides": {"hidden_size": 2**16}}, "no layout of 2 processes fits"),
        ({"tp": 3}, "cannot be divided into --tp 3"),
        ({"resume": "last", "output_dir": "nowhere"}, "--resume last: nothing to continue from"),
    ],
    ids=["batch", "memory", "degrees", "resume"],
)
def test_what_it_refuses(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choose(asked(**settings), 2)


def test_the_host_with_the_least_room_decides(upside_down: list[Candidate]) -> None:
    """On two hosts of two processes each, for which rates are kept apart."""
    hosts: list[int] = []

    def measured(*rest: Any, **options: Any) -> tuple[None, str]:
        hosts.append(options["hosts"])
        return None, ""

    large = Sight("host-a", room_here(asked(), 2))
    small = Sight("host-b", replace(large.room, per_rank=large.room.per_rank // 2**10))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(automatic, "rates_of", measured)
        decide(asked(), 4, [large, large], in_own_processes)
        decide(asked(), 4, [large, replace(large, host="host-b")], in_own_processes)
        with pytest.raises(ConfigError, match="no layout of 4 processes fits"):
            decide(asked(), 4, [large, small], in_own_processes)
    assert hosts == [1, 2], "nothing is measured for what does not fit"


def test_a_run_that_goes_on_keeps_its_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"plugin": "zero1", "tp": 1, "pp": 1, "zero": 0, "grad_accumulation": 2}
    checkpoint = Checkpoint(tmp_path / "checkpoints" / "step", 3, {}, {})
    origin = Origin(checkpoint, tmp_path, (Segment(0, settings),), None)
    monkeypatch.setattr(automatic, "find_origin", lambda config, report: origin)
    (tmp_path / "environment.json").write_text(json.dumps({"world_size": 2}))
    choice = choose(asked(), 2)
    assert choice.settings == settings and "as this run was planned" in choice.why
    choice = choose(asked(), 4)
    assert choice.settings["plugin"] != "zero1" and "planned anew for 4 processes" in choice.why


def test_the_newest_checkpoint_of_any_host_counts(tmp_path: Path) -> None:
    room = room_here(asked(), 1)
    sights = [Sight("host-a", room, problems=("nothing to continue from",))]
    for step, plugin in ((2, "zero1"), (3, "zero2"), (1, "gemini")):
        checkpoint = Checkpoint(tmp_path / "checkpoints" / "step", step, {}, {})
        origin = Origin(checkpoint, tmp_path, (Segment(0, {"plugin": plugin}),), None)
        sights.append(Sight(f"host-{step}", room, origin, len(sights) + 2))
    choice = decide(asked(), 4, sights, in_own_processes)
    assert choice.settings == {"plugin": "zero2"} and "as this run was planned" in choice.why
