"""The time of a step from rates that are made up: by hand it comes out the same."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.forecast.candidates import candidates, with_times
from vit_colossal.forecast.devices import Room
from vit_colossal.forecast.outline import Outline, outline
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
from vit_colossal.forecast.step_time import StepTime, step_time, why_untimed
from vit_colossal.forecast.subject import subject
from vit_colossal.forecast.table import as_document, as_text
from vit_colossal.forecast.traffic import most_sent
from vit_colossal.plan.plan import Device, RunPlan, make_plan

LABELS, LAYERS, TOKENS, WIDTH = 10, 4, 17, 64
MIB = 2**20
#: Seconds of an image.
EMBEDDINGS, FORWARD, BACKWARD, HEAD = 2.0, 10.0, 20.0, 1.0
SLOWDOWN = 0.25


def each(seconds: float) -> Ladder:
    """So long for each image or byte."""
    return Ladder((1e-9,), (seconds * 1e-9,))


def made_up(**transfers: float) -> Rates:
    """Rates in which nothing that is sent takes time but the calls that are named."""
    pieces = Pieces(*map(each, (EMBEDDINGS, FORWARD, BACKWARD, HEAD)))
    halved = replace(pieces, block_forward=each(FORWARD / 2), block_backward=each(BACKWARD / 2))
    twice = replace(pieces, block_backward=each(FORWARD + BACKWARD))
    kinds = ("all_reduce", "all_gather", "reduce_scatter", "send")
    calls = {
        f"{kind} among {ranks}, {element} bytes": each(transfers.get(kind, 0.0))
        for kind in kinds
        for ranks in (2, 4)
        for element in (2, 4)
    }
    return Rates(
        pieces={
            pieces_key(rounding, tp, again, False): (twice if again else pieces)
            if tp == 1
            else halved
            for rounding in ("fp32", "autocast", "16-bit weights")
            for tp in (1, 2)
            for again in (False, True)
        },
        share=Ladder((1, 2), (0.5, 1.0)),
        transfers=calls,
        parameters=parameters(),
        mapped=None,
        slowdown=SLOWDOWN,
        seconds=1.0,
        measured="2026-01-01",
    )


def parameters(
    reduced: float = 0.0, gathered: float = 0.0, **updates: UpdateRate
) -> ParameterRates:
    nothing: dict[str, UpdateRate] = defaultdict(lambda: UpdateRate(0.0, 0.0))
    return ParameterRates(UpdateRate(0.0, reduced), UpdateRate(0.0, gathered), updates or nothing)


def planned(processes: int = 1, device: str = "cpu", **settings: Any) -> tuple[RunPlan, Outline]:
    values = {"model": "vit-micro", "dataset": "digits", "global_batch_size": 8, **settings}
    plan = make_plan(TrainConfig(**values), processes, Device(device))
    return plan, outline(plan, LABELS)


def timed(rates: Rates, *arguments: Any, **settings: Any) -> StepTime:
    plan, whole = planned(*arguments, **settings)
    if plan.dims.world_size == 1:
        rates = replace(rates, share=Ladder((1,), (1.0,)))
    return step_time(plan, whole, rates)


def size_of(whole: Outline, element: int = 4) -> int:
    return element * whole.numel


def test_a_ladder_is_straight_between_its_steps_and_goes_on_above() -> None:
    ladder = Ladder((2, 4, 8), (1.0, 3.0, 4.0))
    assert [ladder(size) for size in (1, 2, 3, 4, 6, 8, 16)] == [1, 1, 2, 3, 3.5, 4, 6]
    assert Ladder((2, 4), (3.0, 2.0))(8) == 2  # noise, not a size at which nothing is left
    assert [Ladder((2,), (1.0,))(size) for size in (1, 2, 6)] == [1, 1, 3]


def test_one_process_goes_through_all_blocks() -> None:
    whole = 8 * (EMBEDDINGS + LAYERS * (FORWARD + BACKWARD) + HEAD)
    assert timed(made_up()) == StepTime(pytest.approx(whole), 0, 0, 0)
    again = timed(made_up(), grad_checkpoint=True)
    assert again.computing == pytest.approx(whole + 8 * LAYERS * FORWARD)


def test_each_micro_batch_is_a_pass_of_its_own() -> None:
    rates, constant = made_up(), Ladder((1, 8), (5.0, 5.0))
    rates = replace(rates, pieces={pieces_key("fp32", 1, False, False): Pieces(*[constant] * 4)})
    assert timed(rates).computing == pytest.approx(5 * (2 + 2 * LAYERS))
    assert timed(rates, grad_accumulation=4).computing == pytest.approx(4 * 5 * (2 + 2 * LAYERS))


def test_a_pipeline_takes_its_slowest_stage_so_often_and_the_others_once() -> None:
    settings = {"plugin": "hybrid", "pp": 2, "num_microbatches": 4}
    first = 2 * (2 * (FORWARD + BACKWARD) + EMBEDDINGS)
    last = 2 * (2 * (FORWARD + BACKWARD) + HEAD)
    rates = replace(made_up(), share=Ladder((1, 2), (1.0, 1.0)))
    found = timed(rates, 2, **settings)
    # The first stage waits for the last one twice, and does a pass of its own meanwhile.
    assert found == StepTime(pytest.approx(4 * first), pytest.approx(2 * last - first), 0, 0)
    # Meanwhile one process is at work, which here takes half as long.
    assert timed(made_up(), 2, **settings).total < 4 * first + last / 2
    sent = timed(replace(rates, transfers=made_up(send=1.0).transfers), 2, **settings)
    border = 2 * TOKENS * WIDTH * 4
    assert sent.computing - found.computing == pytest.approx(4 * border)


def test_tensor_parallelism_sums_up_in_every_layer() -> None:
    settings = {"plugin": "hybrid", "tp": 2}
    plain, size = timed(made_up(), 2, **settings), 8 * TOKENS * WIDTH * 4
    blocks = LAYERS * (FORWARD + BACKWARD) / 2
    assert plain.computing == pytest.approx(8 * (EMBEDDINGS + blocks + HEAD))
    rates = made_up(all_reduce=1.0)
    # Behind attention and MLP; in front of query, key, value and the MLP.
    sums = timed(rates, 2, **settings).computing - plain.computing
    assert sums == pytest.approx(LAYERS * (2 + 4) * size)
    again = timed(rates, 2, grad_checkpoint=True, **settings).computing
    again -= timed(made_up(), 2, grad_checkpoint=True, **settings).computing
    assert again == pytest.approx(LAYERS * (4 + 4) * size)


def test_only_the_last_bucket_of_ddp_waits_for_the_backward_pass() -> None:
    _, micro = planned(2)
    assert size_of(micro) < MIB
    found = timed(made_up(all_reduce=1.0), 2)
    assert found.exchanging == pytest.approx(size_of(micro))
    settings = {"model": "vit-tiny", "global_batch_size": 2}
    _, tiny = planned(2, **settings)
    # The first bucket takes longer than the backward pass of one image through twelve blocks.
    found, beside = timed(made_up(all_reduce=1.0), 2, **settings), 12 * BACKWARD
    shown = size_of(tiny) - MIB + (MIB - beside) + SLOWDOWN * beside
    assert found.exchanging == pytest.approx(shown, rel=1e-6)
    # And here it is hidden.
    found = timed(made_up(all_reduce=1e-6), 2, **settings)
    assert found.exchanging == pytest.approx((size_of(tiny) - (1 - SLOWDOWN) * MIB) * 1e-6)


def test_what_is_measured_beside_gathers_is_for_those_that_gather() -> None:
    rates = made_up()
    slow = Pieces(*[each(100.0)] * 4)
    rates.pieces[pieces_key("fp32", 1, False, True)] = slow
    assert timed(rates, plugin="ddp").computing == timed(made_up(), plugin="ddp").computing
    found = timed(rates, plugin="zero1", precision="fp32").computing
    assert found == pytest.approx(8 * 100 * (2 + 2 * LAYERS))


def test_zero_copies_around_what_it_exchanges() -> None:
    """ZeRO-1 once a step, ZeRO-2 the gradients of each micro-batch; a pipeline's replicas, too."""
    rates = replace(made_up(), parameters=parameters(1.0, 100.0))
    _, whole = planned()
    for settings, count in (
        ({"plugin": "ddp"}, 0),
        ({"plugin": "zero1", "grad_accumulation": 2}, 101),
        ({"plugin": "zero2", "grad_accumulation": 2}, 102),
    ):
        for processes in (1, 2):
            found = timed(rates, processes, **settings)
            assert found.exchanging == pytest.approx(count * whole.numel), settings
    pipeline = {"plugin": "hybrid", "pp": 2, "num_microbatches": 2}
    assert timed(rates, 2, **pipeline).exchanging == 0
    assert 0 < timed(rates, 4, **pipeline).exchanging < whole.numel


def test_a_checkpointed_run_has_rates_of_its_own_where_large_tensors_are_mapped() -> None:
    rates = replace(made_up(), parameters=parameters(1.0), mapped=parameters(5.0))
    usual, checkpointed = (
        timed(rates, 2, plugin="zero1", grad_checkpoint=again) for again in (False, True)
    )
    assert checkpointed.exchanging == pytest.approx(5 * usual.exchanging)


def test_zero_reduces_once_or_each_time_and_gathers() -> None:
    rates = made_up(all_reduce=1.0, reduce_scatter=100.0, all_gather=10_000.0)
    settings = {"grad_accumulation": 2, "precision": "fp32"}
    _, whole = planned(2)
    stage1 = timed(rates, 2, plugin="zero1", **settings).exchanging
    assert stage1 == pytest.approx(size_of(whole) * (1 + 10_000))
    stage2 = timed(rates, 2, plugin="zero2", **settings).exchanging
    assert stage2 == pytest.approx(size_of(whole) * (2 * 100 + 10_000))


def test_a_gpu_reduces_beside_the_backward_pass() -> None:
    _, whole = planned(2)
    rates, settings = made_up(all_reduce=1e-6), {"plugin": "zero1", "precision": "fp32"}
    on_cuda = timed(rates, 2, "cuda", **settings).exchanging
    assert on_cuda == pytest.approx(SLOWDOWN * timed(rates, 2, **settings).exchanging)
    assert on_cuda == pytest.approx(SLOWDOWN * size_of(whole) * 1e-6)


def test_gemini_gathers_twice_and_reduces_once_in_each_pass() -> None:
    rates = made_up(all_reduce=1.0, reduce_scatter=100.0, all_gather=10_000.0)
    settings = {"plugin": "gemini", "precision": "bf16", "grad_accumulation": 2}
    chunks = {"gemini_min_chunk_m": 0.03, "gemini_search_range_m": 0.05, "gemini_hidden_dim": 64}
    _, whole = planned(2)
    divided = timed(rates, 2, **settings, **chunks).exchanging
    assert divided == pytest.approx(size_of(whole, 2) * 2 * (2 * 10_000 + 100))
    # All of it in one chunk, which every rank holds.
    assert timed(rates, 2, **settings).exchanging == pytest.approx(size_of(whole, 2) * 2)


def test_an_update_goes_over_what_the_rank_holds() -> None:
    rates = replace(
        made_up(), parameters=parameters(ddp=UpdateRate(5.0, 2.0), zero1=UpdateRate(5.0, 2.0))
    )
    _, whole = planned(2)
    tensors = len(whole.weights)
    assert timed(rates, 2).updating == pytest.approx(5 * tensors + 2 * whole.numel)
    divided = timed(rates, 2, plugin="zero1", precision="fp32").updating
    padding = sum(weight.numel % 2 for weight in whole.weights)
    assert divided == pytest.approx(5 * tensors + whole.numel + padding)


def test_a_ring_sends_its_share() -> None:
    for plugin, times in (("ddp", 2), ("zero1", 3), ("zero2", 2)):
        plan, whole = planned(4, plugin=plugin, precision="fp32")
        assert most_sent(plan, whole) == round(times * size_of(whole) * 3 / 4)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, None),
        ({"freeze": "backbone"}, "frozen"),
        ({"freeze_layers": 1}, "frozen"),
        ({"compile": True}, "--compile"),
    ],
    ids=str,
)
def test_what_is_not_timed(settings: dict[str, Any], reason: str | None) -> None:
    said = why_untimed(*planned(**settings))
    assert said is None if reason is None else said is not None and reason in said


def test_the_fastest_comes_first_and_all_have_a_time() -> None:
    room = Room(Device("cpu"), 2**36, "given", extrapolated=False)
    asked = TrainConfig(model="vit-micro", global_batch_size=16)
    about = subject(asked, asked.model_fields_set, room.device, 2, LABELS)
    found = candidates(about.plan, asked.model_fields_set, 2, room, about.whole)
    slow = made_up(all_reduce=10.0, reduce_scatter=10.0)
    # zero2 is as fast as ddp by these rates, and takes less memory.
    for rates, plugin in ((made_up(), "zero2"), (slow, "hybrid")):
        every = with_times(found, about.whole, rates, room)
        seconds = [each.time.total for each in every.of_each_layout if each.time]
        assert seconds == sorted(seconds) and len(seconds) == len(every.of_each_layout)
        assert every.found[0].plan.config.plugin == plugin
        text = " ".join(as_text(every, room, []).split())
        assert "step s" in text and "a step takes about" in text
        assert ("longer (" in text) is (seconds[1] >= 1.01 * seconds[0])
        assert ("is as fast within 1% (" in text) is (seconds[1] < 1.01 * seconds[0])
        row = as_document(every, room)["candidates"][0]
        assert row["images_per_second"] == pytest.approx(16 / row["step_seconds"])
        assert sum(row["seconds"].values()) == pytest.approx(row["step_seconds"])


def test_rates_are_written_and_read(tmp_path: Path) -> None:
    rates, path = (
        replace(made_up(), parameters=parameters(ddp=UpdateRate(1.0, 2.0))),
        tmp_path / "rates.json",
    )
    write_rates(rates, path)
    assert read_rates(path) == rates
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ValueError, match="Rates"):
        read_rates(path)
