"""Times by data sheet: by hand they come out the same, and what they rest on is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from families import TINY
from vit_colossal.bench.device_peak import TENSOR_16_BIT
from vit_colossal.commands import plan as command
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.forecast.candidates import Candidates, candidates
from vit_colossal.forecast.devices import by_profile
from vit_colossal.forecast.extrapolation import rates_of
from vit_colossal.forecast.outline import Outline
from vit_colossal.forecast.profiles import CALL_S, PEAK_SHARE, PROFILES, DeviceProfile
from vit_colossal.forecast.rates import Rates
from vit_colossal.forecast.step_time import StepTime, step_time
from vit_colossal.forecast.subject import Subject, subject
from vit_colossal.forecast.traffic import Transfer
from vit_colossal.model.build import flops_per_image
from vit_colossal.plan.plan import RunPlan

H100, LABELS = PROFILES["h100-80g"], 10
#: So that what is sent takes all of the time.
SLOW = replace(H100, flops_16_bit=1e30, flops_32_bit=1e30, bandwidth=1e30)


def about(processes: int, **settings: Any) -> tuple[Subject, Candidates]:
    asked = TrainConfig(**{"model": "vit-tiny", "global_batch_size": 1024, **settings})
    named, room = asked.model_fields_set, by_profile("h100-80g", processes)
    one = subject(asked, named, room.device, processes, LABELS)
    return one, candidates(one.plan, named, processes, room, one.whole)


def rates(profile: DeviceProfile, processes: int, **settings: Any) -> tuple[Rates, RunPlan]:
    one, found = about(processes, **settings)
    return rates_of(profile, one.plan, LABELS, found, processes), one.plan


def timed(
    profile: DeviceProfile, processes: int, **settings: Any
) -> tuple[StepTime, RunPlan, Outline]:
    """Of the only candidate with as many micro-batches as were named."""
    one, found = about(processes, grad_checkpoint=False, grad_accumulation=1, **settings)
    first = found.found[0].plan
    of_it = rates_of(profile, one.plan, LABELS, found, processes)
    return step_time(first, one.whole, of_it), first, one.whole


@pytest.mark.parametrize(("precision", "peak"), [("bf16", 989e12), ("fp32", 67e12)])
def test_the_parts_of_a_model_have_all_of_its_operations(precision: str, peak: float) -> None:
    found, plan = rates(H100, 2, precision=precision, plugin="ddp")
    parts, images = found.pieces[f"{'autocast' if precision == 'bf16' else 'fp32'}, tp 1"], 10**6
    layers = plan.spec.shape.num_layers * (
        parts.block_forward(images) + parts.block_backward(images)
    )
    seconds = parts.embeddings(images) + layers + parts.head(images)
    # The head of ten labels is so small that its calls alone take longer.
    flops = images * flops_per_image(plan.spec, LABELS)
    assert seconds == pytest.approx(flops / (PEAK_SHARE * peak), rel=1e-3)
    # One image, and none, take as long as their calls.
    assert parts.block_forward(1) == parts.block_forward(0) > 0


def test_tensor_parallelism_divides_the_blocks_alone() -> None:
    found, _ = rates(H100, 4, model="vit-small", plugin="hybrid")
    whole, halves = (found.pieces[f"16-bit weights, tp {tp}"] for tp in (1, 2))
    assert halves.block_forward(10**6) == pytest.approx(whole.block_forward(10**6) / 2)
    assert halves.embeddings(10**6) == whole.embeddings(10**6)


@pytest.mark.parametrize(
    ("ranks", "stride", "near"),
    [(8, 1, 8), (16, 1, 8), (4, 4, 2), (64, 1, 8), (8, 8, 1), (4, 16, 1), (2, 4, 2), (3, 3, 2)],
    ids=str,
)
def test_how_many_of_a_group_share_a_host(ranks: int, stride: int, near: int) -> None:
    transfer = Transfer("all_reduce", ranks, 1.0, 1, 4, stride=stride)
    assert transfer.on_a_host(8) == near and transfer.on_a_host(None) == ranks


@pytest.mark.parametrize(
    ("processes", "speed"),
    [
        (8, 450e9),  # within a host
        (64, 400e9),  # all eight devices of each host share its network
    ],
)
def test_replicas_send_by_the_slowest_link_that_they_cross(processes: int, speed: float) -> None:
    time, _, whole = timed(SLOW, processes, plugin="ddp", precision="fp32")
    # Nothing but calls hides DDP's first bucket; the last one is all that is left behind it.
    buckets = [2**20, 4 * whole.numel - 2**20]
    ring = 2 * (processes - 1) / processes
    calls = 24 * 12 * CALL_S
    hidden = max(0.0, ring * buckets[0] / speed + CALL_S - calls)
    assert time.exchanging == pytest.approx(ring * buckets[1] / speed + CALL_S + hidden, rel=1e-6)


def test_where_tensor_parallelism_fills_a_host_each_replica_sends_alone() -> None:
    settings = {"plugin": "hybrid", "model": "vit-small", "precision": "bf16"}
    settings |= {"model_overrides": {"hidden_size": 512, "num_attention_heads": 8}}
    time, plan, _ = timed(SLOW, 16, tp=8, zero=0, **settings)
    near, _, _ = timed(SLOW, 8, tp=8, zero=0, **settings)
    assert plan.dims.dp == 2 and near.exchanging == 0
    held = [w.numel // (8 if w.cut else 1) for w in about(16, **settings)[0].whole.weights]
    # Two of them send what there is once; the first bucket goes beside the backward pass.
    assert time.exchanging == pytest.approx((2 * sum(held) - 2**20) / 50e9 + CALL_S, rel=1e-6)
    # Sums within the layers stay on NVLink, and are of half as many images.
    assert time.computing < near.computing


def test_stages_on_two_hosts_send_over_the_network() -> None:
    settings = {"plugin": "hybrid", "pp": 2, "num_microbatches": 8, "zero": 0, "model": "vit-small"}
    settings |= {"model_overrides": {"hidden_size": 512, "num_attention_heads": 8}}
    seconds = [timed(SLOW, 16, tp=tp, **settings) for tp in (4, 8)]
    slow_links = [timed(replace(SLOW, network=5e9), 16, tp=tp, **settings) for tp in (4, 8)]
    # With tp 4 both stages of a replica are on one host.
    assert seconds[0][0].computing == slow_links[0][0].computing
    assert seconds[1][0].computing < slow_links[1][0].computing


def test_an_update_is_as_fast_as_the_memory() -> None:
    time, _, whole = timed(H100, 2, plugin="ddp", precision="fp32", clip_grad_norm=0.0)
    # Gradient, weight and two moments are read, the last three written.
    assert time.updating == pytest.approx(7 * 4 * whole.numel / 3350e9)
    clipped, _, _ = timed(H100, 2, plugin="ddp", precision="fp32", clip_grad_norm=1.0)
    assert clipped.updating == pytest.approx(10 * 4 * whole.numel / 3350e9)


def test_peaks_of_the_benchmark_are_those_of_the_sheets() -> None:
    assert TENSOR_16_BIT["A100"] == 312e12 and TENSOR_16_BIT["H100"] == 989e12
    names = list(TENSOR_16_BIT)
    # The first that is part of a name counts.
    assert names.index("H100 PCIe") < names.index("H100")
    assert names.index("L40S") < names.index("L4")


FLAGS = ["--model", "vit-base", "--devices", "16", "--device-profile", "h100-80g"]
FLAGS += ["--num-labels", "10", "--global-batch-size", "256"]


def test_the_command_says_what_times_rest_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(FLAGS, "vit-colossal plan") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "extrapolated: no such device" in text and "step s images/s" in text
    for part in ("989 TFLOP/s dense", "40% are reached (assumed", "3,350 GB/s of memory",
                 "450 GB/s each way by NVLink among the 8 devices of a host",
                 "50 GB/s for each device between hosts (assumed", "10 us a call"):  # fmt: skip
        assert part in text
    assert "Links half as fast: --plugin" in text and "Links twice as fast: --plugin" in text


def test_slower_links_cost_time_and_change_the_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*FLAGS, "--format", "json"], "vit-colossal plan") == 0
    document = json.loads(capsys.readouterr().out)
    sheet, rows = document["data_sheet"], document["candidates"]
    assert (sheet["flops"], sheet["share_of_peak"]) == (989e12, PEAK_SHARE)
    best = rows[0]["step_seconds"]
    assert best == min(row["step_seconds"] for row in rows if row["fits"])
    half, double = sheet["other_links"]
    assert (half["factor"], double["factor"]) == (0.5, 2.0)
    assert half["step_seconds"] > best > double["step_seconds"]
    for other in (half, double):
        assert other["change"] == pytest.approx(other["step_seconds"] / best - 1)
        assert other["first"] == other["order"][0]["flags"]
        same = other["rows_in_place"]
        flags = [row["flags"] for row in other["order"]]
        assert flags[:same] == [row["flags"] for row in rows][:same]
        assert flags[same : same + 1] != [row["flags"] for row in rows][same : same + 1]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--device-profile", "cpu"], "Times of CPUs are measured: use --nproc N --measure"),
        (["--freeze", "backbone"], "No time is predicted with frozen weights"),
    ],
    ids=str,
)
def test_where_no_time_is_told(
    flags: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main([*FLAGS, "--model", "vit-micro", *flags], "vit-colossal plan")
    text = " ".join(capsys.readouterr().out.split())
    assert reason in text and "step s" not in text and "Times by that" not in text


def test_a_family_without_a_formula_is_said_to_be_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TINY["swin"].save(tmp_path / "swin")
    flags = [*FLAGS, "--model", str(tmp_path / "swin"), "--picture", str(tmp_path / "plan.png")]
    assert command.main(flags, "vit-colossal plan") == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "Not predicted: neither memory nor time of this family's models" in text
    assert "No layout is possible" not in text and "what is divided" not in text
    assert not (tmp_path / "plan.png").exists()


@pytest.mark.parametrize("timed_too", [True, False])
def test_a_picture_has_all_rows(
    timed_too: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = FLAGS if timed_too else [*FLAGS, "--freeze", "backbone"]
    for name in ("plan.png", "plan.svg"):
        assert command.main([*flags, "--picture", str(tmp_path / name)], "vit-colossal plan") == 0
    text, drawn = capsys.readouterr().out, (tmp_path / "plan.svg").read_text()
    with Image.open(tmp_path / "plan.png") as image:
        assert image.width > 700 and image.height > 500
        assert image.convert("L").getpixel((2, 2)) == 255
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.png", "plan.svg"]
    assert "<!-- 1  " in drawn and f"<!-- {12 if ' 12  --plugin' in text else 2}  " in drawn
    assert "<!-- a rank has -->" in drawn and "<!-- activations -->" in drawn
    assert ("<!-- exchanging -->" in drawn) is timed_too
    assert "extrapolated" in drawn


@pytest.mark.parametrize("name", ["plan.jpg", "plan", "missing/plan.png"])
def test_a_picture_that_cannot_be_is_refused_first(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--picture"):
        command.main([*FLAGS, "--picture", str(tmp_path / name)], "vit-colossal plan")
