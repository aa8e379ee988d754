"""What each part of a run was trained with, and which changes make it another run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vit_colossal import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.plan.checkpoint import Segment
from vit_colossal.plan.recipe import settled
from vit_colossal.rundir.segments import (
    changes,
    read_segments,
    settings_of,
    turns,
    until,
    write_segments,
)


def settings(**values: Any) -> dict[str, Any]:
    config = TrainConfig(dataset="./Fotos von mir", model="vit-micro", lr=1e-3, epochs=2)
    return settings_of(settled(config.replace(**values)).dump())


def described(before: dict[str, Any], now: dict[str, Any]) -> dict[str, bool]:
    return {str(change): change.decisive for change in changes(before, now)}


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ({"lr": 5e-4}, {"--lr 0.001 -> 0.0005": True}),
        ({"epochs": 4}, {"--epochs 2 -> 4": True}),
        ({"lr_schedule": "linear"}, {"--lr-schedule cosine -> linear": True}),
        ({"mixup": 0.2}, {"--mixup none -> 0.2": True}),
        ({"horizontal_flip": True}, {"--horizontal-flip False -> True": True}),
        ({"clip_grad_norm": 1.0}, {"--clip-grad-norm 0.0 -> 1.0": True}),
        ({"plugin": "zero1"}, {"--plugin ddp -> zero1": False}),
        ({"grad_accumulation": 4}, {"--grad-accumulation 1 -> 4": False}),
        ({"save_every": 7, "log_every": 3}, {"--save-every none -> 7": False, "": False}),
        # What earlier versions wrote has no such setting: they left the last batch out.
        ({"last_batch": "train"}, {"--last-batch drop -> train": True}),
        ({"last_batch": "drop"}, {}),
        # Places are no settings of a run.
        ({"output_dir": "elsewhere", "resume": "auto", "cache_dir": "/x"}, {}),
        ({"dataset": "/data/Fotos von mir"}, {"--dataset ./Fotos von mir": False}),
    ],
)
def test_each_difference_is_named(now: dict[str, Any], expected: dict[str, bool]) -> None:
    found = described(settings(), settings(**now))
    assert len(found) == len(expected)
    for text, decisive in expected.items():
        (value,) = {value for words, value in found.items() if words.startswith(text)}
        assert value is decisive


def test_more_steps_of_a_constant_rate_are_the_same_run() -> None:
    constant = {"lr_schedule": "constant", "warmup_ratio": 0.0}
    longer = changes(settings(**constant), settings(**constant, epochs=9))
    assert [change.decisive for change in longer] == [False]
    warmed = {"lr_schedule": "constant"}
    longer = changes(settings(**warmed), settings(**warmed, epochs=9))
    assert [change.decisive for change in longer] == [True]


def test_epochs_say_nothing_beside_the_same_number_of_steps() -> None:
    assert changes(settings(max_steps=40), settings(max_steps=40, epochs=4000)) == []
    assert len(changes(settings(), settings(max_steps=40))) == 1


def test_what_another_version_does_not_name_has_its_default() -> None:
    older = settings()
    del older["warmup_ratio"], older["plugin"]
    assert changes({**older, "a_setting_of_yesterday": 3}, settings()) == []


def test_the_parts_of_a_run_are_kept_and_read(tmp_path: Path) -> None:
    parts = (Segment(0, settings()), Segment(8, settings(lr=1e-4)), Segment(30, settings(lr=1e-5)))
    write_segments(tmp_path, parts)
    assert read_segments(tmp_path) == parts
    assert [part.first_step for part in until(parts, 30)] == [0, 8]
    assert [part.first_step for part in until(parts, 8)] == [0]
    assert until(parts, 0) == parts[:1]
    assert turns(parts[:1]) == []
    assert turns(parts)[1] == "from step 30: --lr 0.0001 -> 1e-05"
    assert turns((parts[0], Segment(8, settings(plugin="gemini")))) == []


def test_a_run_of_an_earlier_version_has_one_part(tmp_path: Path) -> None:
    assert read_segments(tmp_path) == ()
    (tmp_path / "config.yaml").write_text(TrainConfig(lr=0.5).dump(), encoding="utf-8")
    (part,) = read_segments(tmp_path)
    assert (part.first_step, part.settings["lr"]) == (0, 0.5)


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"first_step": "0", "settings": {}}', '{"first_step": 1}', "\xff"]
)
def test_a_damaged_file_is_named(line: str, tmp_path: Path) -> None:
    good = json.dumps({"first_step": 0, "settings": {}})
    (tmp_path / "segments.jsonl").write_text(f"{good}\n{line}\n", encoding="latin-1")
    with pytest.raises(ConfigError, match=r"segments\.jsonl: (line 2|unreadable)"):
        read_segments(tmp_path)
