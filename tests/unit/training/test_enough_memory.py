"""A run that would take more than is free is refused with what fits, and may be started anyway."""

from __future__ import annotations

import pytest
import torch

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError, OutOfMemory
from vit_colossal.forecast.memory import predict_stages
from vit_colossal.forecast.outline import outline
from vit_colossal.plan.plan import Device, RunPlan, make_plan
from vit_colossal.runtime import memory as runtime_memory
from vit_colossal.runtime.group import Topology
from vit_colossal.training import enough_memory
from vit_colossal.training.enough_memory import check_memory, explained

TWO = Topology(world_size=2, local_world_size=2)


def planned(**settings: object) -> RunPlan:
    config = TrainConfig(model="vit-tiny", dataset="digits", global_batch_size=32, **settings)
    return make_plan(config, 2, Device("cpu"))


def growth(plan: RunPlan) -> int:
    """Of both processes together."""
    return 2 * max(memory.growth for memory in predict_stages(plan, outline(plan, 10)))


def with_free(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    monkeypatch.setattr(enough_memory, "free_bytes", lambda: round(size))
    monkeypatch.setattr("vit_colossal.forecast.devices.free_bytes", lambda: round(size))


def test_what_fits_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned()
    with_free(monkeypatch, growth(plan) / 1.09)
    check_memory(plan, 10, TWO)


def test_what_does_not_fit_is_refused_with_what_does(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned()
    with_free(monkeypatch, growth(plan) / 1.11)
    with pytest.raises(ConfigError, match=r"ddp would take about .* use --plugin") as found:
        check_memory(plan, 10, TWO)
    assert "--no-memory-check" in str(found.value)
    # As any other setting of the run: the answer is taken by training itself.
    nearest = enough_memory._nearest(
        plan, outline(plan, 10), enough_memory.of_this_machine(plan.device, 2)
    )
    assert nearest is not None
    check_memory(nearest.plan, 10, TWO)


def test_where_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 2**20)
    with pytest.raises(ConfigError, match="no other layout fits; use more devices"):
        check_memory(planned(), 10, TWO)


def test_a_person_may_start_it_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 2**20)
    check_memory(planned(memory_check=False), 10, TWO)


def test_nothing_is_refused_where_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enough_memory, "free_bytes", lambda: None)
    check_memory(planned(), 10, TWO)


def test_a_failed_allocation_says_what_was_predicted() -> None:
    said = pytest.raises(OutOfMemory, match=r"predicted were .* use --plugin")
    with said, explained(planned(), 10):
        torch.empty(2**50)


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shape"), explained(planned(), 10):
        torch.ones(2).reshape(3)


def test_memory_is_free_here() -> None:
    free = runtime_memory.free_bytes()
    assert free is not None and free > 2**28
