"""What a run says of its speed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from vit_colossal.training import meter


def test_an_evaluation_between_two_lines_is_taken_off_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the steps before it stay: else a line after it counts their images, not their time."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(meter.time, "monotonic", lambda: clock.now)
    reporter = SimpleNamespace(event=lambda *args, **values: None)
    config = SimpleNamespace(log_every=10)
    engine = SimpleNamespace(is_lead=False)
    job = SimpleNamespace(plan=SimpleNamespace(config=config), steps_per_epoch=8, engine=engine)
    mine = meter.Meter(cast(Any, job), cast(Any, reporter))
    clock.now = 8.0
    with mine.standing_still():
        clock.now += 100
    evaluation = SimpleNamespace(
        **dict.fromkeys(("accuracy", "loss", "correct", "total", "correct_top5", "macro_f1"), 0)
    )
    mine.evaluated(8, cast(Any, evaluation))
    clock.now += 2
    assert clock.now - mine.since == 10
