"""What is predicted of a benchmark's cases, and how it stands beside what was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from families import TINY
from vit_colossal.bench import prediction
from vit_colossal.bench.case import BenchCase
from vit_colossal.bench.compare import Row
from vit_colossal.bench.config import BenchConfig
from vit_colossal.bench.data import plan_case
from vit_colossal.bench.prediction import Prediction, Predictor
from vit_colossal.bench.prediction_table import predicted, reasons, table
from vit_colossal.bench.report import as_text, summarize
from vit_colossal.calibration.parts import ModelParts
from vit_colossal.calibration.work import Work
from vit_colossal.errors import ConfigError
from vit_colossal.forecast.devices import FRAMEWORK, Room
from vit_colossal.forecast.rates import (
    Ladder,
    ParameterRates,
    Pieces,
    Rates,
    UpdateRate,
    pieces_key,
    read_rates,
    write_rates,
)
from vit_colossal.model.build import blocks
from vit_colossal.plan.plan import Device, RunPlan
from vit_colossal.runtime.group import Topology

MIB = 2**20
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "send")


def made_up(work: Work, largest: int | None = None) -> Rates:
    """A second for each image that goes forward through a block, and for nothing else; up to so
    many images there was time for."""
    images = tuple(sorted({1, largest or work.batches[-1]}))
    nothing, second = Ladder(images, (0.0,) * len(images)), Ladder(images, images)
    free = UpdateRate(0.0, 0.0)
    calls = [(k, n, e) for k in KINDS for n in (2, 4) for e in (2, 4)]
    return Rates(
        pieces={
            pieces_key(*each): Pieces(nothing, second, second if each[2] else nothing, nothing)
            for each in work.variants
        },
        share=Ladder((1, 2), (1.0, 1.0)),
        transfers={f"{kind} among {n}, {e} bytes": nothing for kind, n, e in calls},
        parameters=ParameterRates(free, free, dict.fromkeys(work.plugins, free)),
        mapped=None,
        slowdown=0.0,
        seconds=1.0,
        measured="2026-01-01",
        largest_batch=work.batches[-1],
    )


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Work]:
    """All that was measured, in place of a minute."""
    works: list[Work] = []

    def measure(work: Work, path: Path) -> None:
        works.append(work)
        write_rates(made_up(work), path)

    monkeypatch.setattr(prediction, "in_own_processes", measure)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return works


def planned(folder: Path, processes: int = 2, **settings: Any) -> tuple[BenchCase, RunPlan, int]:
    """What a predictor predicts; rates are kept in the folder."""
    base = {"model": "vit-micro", "global_batch_size": 8, "device": "cpu"}
    asked = BenchConfig(**base, precision="fp32", cache_dir=folder)
    case = BenchCase("one", asked.job(3, settings), processes, 1, "synthetic", 2, 1)
    place = Topology(world_size=processes, local_world_size=processes)
    plan, data = plan_case(case, place, None)
    return case, plan, len(data.labels)


@pytest.fixture
def foretell(tmp_path: Path) -> Callable[..., Prediction]:
    """Predicts a case, by default with rates that have to be measured first."""
    predictors: dict[bool, Predictor] = {}

    def one(processes: int = 2, calibrate: bool = True, **settings: Any) -> Prediction:
        predictor = predictors.setdefault(calibrate, Predictor(calibrate=calibrate))
        return predictor.predict(*planned(tmp_path, processes, **settings))

    return one


def test_cases_that_divide_the_same_work_are_measured_for_once(
    measured: list[Work], foretell: Callable[..., Prediction], tmp_path: Path
) -> None:
    """Four images of a rank through four blocks; twice where that is computed again."""
    assert foretell().step_seconds == pytest.approx(16)
    assert foretell(grad_checkpoint=True, grad_accumulation=2).step_seconds == pytest.approx(32)
    # Two blocks a stage, four micro-batches of 2: the slowest four times, the other once.
    pipelined = {"plugin": "hybrid", "pp": 2, "microbatch_size": 2}
    assert foretell(**pipelined).step_seconds == pytest.approx(4 * 4 + 4)
    assert foretell(plugin="gemini", precision="bf16").step_seconds == pytest.approx(16)
    assert [work.plan.config.precision for work in measured] == ["fp32", "bf16"]
    foretell(processes=1)
    assert [work.processes for work in measured] == [2, 2, 1]
    assert len(list((tmp_path / "rates").iterdir())) == 3


def test_it_is_measured_anew_only_where_larger_batches_have_room(
    measured: list[Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that is free changes from one minute to the next."""
    for left in (2 * MIB, 1 * MIB, 4096 * MIB, 2 * MIB):
        room = Room(Device("cpu"), FRAMEWORK["cpu"] + left, "", False)
        monkeypatch.setattr(prediction, "room_here", lambda *_, room=room: room)
        assert Predictor(calibrate=True).predict(*planned(tmp_path)).step_seconds is not None
    few, many = (work.batches[-1] for work in measured)
    assert few < many
    [kept] = (tmp_path / "rates").iterdir()
    assert read_rates(kept).largest_batch == many


def test_larger_batches_are_not_measured_where_there_was_no_time_for_smaller_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works: list[Work] = []

    def measure(work: Work, path: Path) -> None:
        works.append(work)
        write_rates(made_up(work, largest=1), path)

    monkeypatch.setattr(prediction, "in_own_processes", measure)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for left in (2048, 8192):
        room = Room(Device("cpu"), FRAMEWORK["cpu"] + left * MIB, "", False)
        monkeypatch.setattr(prediction, "room_here", lambda *_, room=room: room)
        Predictor(calibrate=True).predict(*planned(tmp_path, global_batch_size=2**16))
    [work] = works
    assert work.batches[-1] > 1


def test_a_little_more_memory_is_no_reason_to_measure_anew(
    measured: list[Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is memory that bounds the batches, not what is wanted."""
    for left in (2300, 2330, 2400, 2500):
        room = Room(Device("cpu"), FRAMEWORK["cpu"] + left * MIB, "", False)
        monkeypatch.setattr(prediction, "room_here", lambda *_, room=room: room)
        Predictor(calibrate=True).predict(*planned(tmp_path, global_batch_size=2**16))
    [work] = measured
    assert work.batches[-1] < 2**15


def test_rates_that_cannot_be_kept_are_refused_before_measuring(
    measured: list[Work], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    prediction = Predictor(calibrate=True).predict(*planned(tmp_path / "file"))
    assert "--cache-dir" in prediction.why and not measured


@pytest.mark.parametrize(("checkpointed", "passes"), [(False, 1), (True, 2)])
def test_a_block_is_measured_as_often_as_it_is_computed(
    measured: list[Work], foretell: Callable[..., Prediction], checkpointed: bool, passes: int
) -> None:
    foretell()
    parts = ModelParts(measured[0], "fp32", 1, checkpointed, torch.device("cpu"))
    block = blocks(parts.model, parts.spec)[0]
    product = next(each for each in block.modules() if isinstance(each, torch.nn.Linear))
    calls: list[object] = []
    product.register_forward_pre_hook(lambda *each: calls.append(each))
    parts.seconds(1)
    assert len(calls) == passes


def test_without_measuring_kept_rates_are_used(
    measured: list[Work], foretell: Callable[..., Prediction]
) -> None:
    missing = foretell(processes=1, calibrate=False)
    assert missing.step_seconds is None and missing.growth_bytes
    assert "no rates of this machine are kept" in missing.why and "--no-calibrate" in missing.why
    foretell()
    assert foretell(calibrate=False).step_seconds == pytest.approx(16)
    assert len(measured) == 1


def test_what_cannot_be_measured_is_tried_once(
    foretell: Callable[..., Prediction], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Path] = []

    def measure(work: Work, path: Path) -> None:
        tried.append(path)
        raise ConfigError(["measuring ended with exit code 1"])

    monkeypatch.setattr(prediction, "in_own_processes", measure)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = [foretell(), foretell(plugin="zero1")]
    assert [each.why for each in found] == ["measuring ended with exit code 1"] * 2
    assert all(each.growth_bytes for each in found) and len(tried) == 1


def test_what_is_not_predicted_says_so(
    measured: list[Work], foretell: Callable[..., Prediction], tmp_path: Path
) -> None:
    TINY["swin"].save(tmp_path / "swin")
    frozen, compiled = foretell(freeze_layers=1), foretell(compile=True)
    other = foretell(model=str(tmp_path / "swin"))
    assert frozen.why.startswith("no time is predicted with frozen weights")
    assert compiled.why == "no time is predicted with --compile"
    assert other.why == "nothing is predicted of --plugin ddp and models of type swin"
    assert frozen.growth_bytes and compiled.growth_bytes and other.growth_bytes is None
    assert [each.step_seconds for each in (frozen, compiled, other)] == [None] * 3
    assert measured == []


def row(guess: Prediction | None, windows: tuple[float, ...] = (4.0, 8.0, 5.0)) -> Row:
    config = BenchConfig(model="vit-micro").job(3, {})
    case = BenchCase("one", config, 2, 1, "synthetic", 2, 1)
    numbers: dict[str, Any] = {"step_seconds": [2.0], "time_to_first_step": 1.0, "losses": []}
    numbers |= {"load_before": 0.0, "peak_memory_bytes": [500 * MIB, 700 * MIB]}
    numbers["resident_before_bytes"] = [100 * MIB, 400 * MIB]
    facts = {"global_batch": 10, "device": "cpu", "flops_per_image": 1, "bubble": None}
    repetitions = [{**numbers, "window_seconds": seconds} for seconds in windows]
    return Row(case, facts, repetitions, prediction=guess)


def test_a_prediction_stands_beside_what_was_measured() -> None:
    """Three repetitions of 2, 4 and 2.5 s a step; the rank that grew most has not the most."""
    found = predicted(row(Prediction(2.0, 300 * MIB)))
    assert found is not None and found["images_per_second"] == pytest.approx(5)
    assert found["step_error"] == pytest.approx(-0.2)
    assert found["growth_error"] == pytest.approx(-0.25)
    case = summarize(row(Prediction(2.0, 300 * MIB)))
    assert case["predicted"] == found and case["growth_bytes"] == 400 * MIB
    _, line = table([case])
    assert line == ("one", "4.0", "5.0", "2,500", "2,000", "-20%", "400", "300", "-25%")
    assert "error" in as_text({"cases": [case]}) and "-20%" in as_text({"cases": [case]})


def test_what_is_missing_is_a_dash() -> None:
    untimed = summarize(row(Prediction(None, 300 * MIB, "no time is predicted with --compile")))
    failed = summarize(row(Prediction(2.0, 300 * MIB), ()))
    failed["name"] = "failed"
    peer = summarize(row(None))
    assert peer["predicted"] is None
    lines = table([untimed, failed, peer])[1:]
    assert lines == [
        ("one", "4.0", "-", "2,500", "-", "-", "400", "300", "-25%"),
        ("failed", "-", "5.0", "-", "2,000", "-", "-", "300", "-"),
    ]
    assert reasons([untimed, failed, peer]) == ["- one: no time is predicted with --compile"]
    assert table([peer]) == []
