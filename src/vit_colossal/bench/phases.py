"""Where a step's time goes: some steps under PyTorch's profiler, apart from those that are timed.

The device is synchronized around data, optimizer and step, so that each owns the time it causes;
that is why these steps are no part of the throughput. Communication is what the profiler saw of
gloo or NCCL, and counts as communication only while this rank computes nothing meanwhile; the rest
of it is hidden behind computation and listed as overlapped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from vit_colossal.bench.timeline import BACKWARD, FORWARD, UPDATE, Span
from vit_colossal.bench.timing import around_calls, synchronize
from vit_colossal.data.samples import Batch
from vit_colossal.strategies.engine import Engine
from vit_colossal.training.step import train_step

DATA, STEP, OPTIMIZER, PIPELINE = "bench/data", "bench/step", "bench/optimizer", "bench/pipeline"

#: A stretch of time in microseconds.
Interval = tuple[float, float]


@dataclass(frozen=True)
class Phases:
    """Seconds of one step on one rank; the first four add up to ``step``.

    Attributes:
        data: waiting for the batch.
        forward_backward: the rest of the step; Python's own time is in it.
        optimizer: update, zeroing, and under ZeRO what goes with them.
        communication: transfers, and waiting for peers, while nothing was computed.
        overlapped: communication behind computation; part of the others.
        step: all of it.
        pipeline: inside the pipeline's schedule; 0 without one.
        idle: of that, waiting for another stage.
    """

    data: float
    forward_backward: float
    optimizer: float
    communication: float
    overlapped: float
    step: float
    pipeline: float
    idle: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def silence_profiler() -> None:
    """Before its first start: it tells of that, of its end and of a missing GPU on stderr."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # above 5 it says nothing


def profile_phases(engine: Engine, batches: Iterator[list[Batch]], steps: int) -> Phases:
    """Take ``steps`` steps under the profiler and divide their time. All ranks call this alike."""
    silence_profiler()
    activities = [ProfilerActivity.CPU]
    if engine.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with ExitStack() as stack:
        for owner, method, name in (
            (engine.optimizer, "step", OPTIMIZER),
            (engine.optimizer, "zero_grad", OPTIMIZER),
            (engine.booster, "execute_pipeline", PIPELINE),
        ):
            watch = partial(_range, name, engine.device)
            stack.enter_context(around_calls(owner, method, watch))
        profiler = stack.enter_context(profile(activities=activities))
        for _ in range(steps):
            with _range(DATA, engine.device):
                batch = next(batches)
            with _range(STEP, engine.device):
                train_step(engine, batch)
    return divide(list(profiler.events() or []), engine.device.type, steps)


def watch_step(engine: Engine, batches: list[Batch]) -> list[Span]:
    """Take one step of a pipeline and note what this rank computed when. All ranks call this alike.

    It is a step of its own: the device is waited for around each part.
    """
    spans: list[Span] = []

    @contextmanager
    def watched(kind: str) -> Iterator[None]:
        synchronize(engine.device)
        start = time.time()
        yield
        synchronize(engine.device)
        spans.append(Span(kind, start, time.time()))

    schedule = engine.strategy.pipeline_schedule(engine)
    with ExitStack() as stack:
        for owner, method, kind in (
            (schedule, "forward_step", FORWARD),
            (schedule, "backward_step", BACKWARD),
            (engine.optimizer, "step", UPDATE),
        ):
            stack.enter_context(around_calls(owner, method, partial(watched, kind)))
        train_step(engine, batches)
    return spans


def divide(events: list[Any], device: str, steps: int) -> Phases:
    """The phases that the profiler's events show, per step."""
    marks: dict[str, list[Interval]] = {DATA: [], STEP: [], OPTIMIZER: [], PIPELINE: []}
    compute: list[Interval] = []
    transfers: list[Interval] = []
    stages: list[Interval] = []
    for event in events:
        stretch = (event.time_range.start, event.time_range.end)
        on_device = event.device_type != DeviceType.CPU
        name = event.name
        if name in marks:
            # On CUDA the profiler repeats each range as the device saw it.
            if not on_device:
                marks[name].append(stretch)
        elif _is_transfer(name, device, on_device):
            transfers.append(stretch)
            if "send" in name.lower() or "recv" in name.lower():
                stages.append(stretch)
        elif on_device or (device == "cpu" and name.startswith("aten::")):
            compute.append(stretch)
    ranges = {name: merge(found) for name, found in marks.items()}
    busy, moving = merge(compute), merge(transfers)
    exposed = subtract(moving, busy)
    inside = intersect(exposed, ranges[STEP])
    data, step = length(ranges[DATA]), length(ranges[STEP])
    optimizer = length(subtract(ranges[OPTIMIZER], exposed))
    communication = length(inside)
    waiting = intersect(subtract(merge(stages), busy), ranges[PIPELINE])
    seconds = 1e6 * steps
    return Phases(
        data=data / seconds,
        forward_backward=(step - optimizer - communication) / seconds,
        optimizer=optimizer / seconds,
        communication=communication / seconds,
        overlapped=length(intersect(intersect(moving, busy), ranges[STEP])) / seconds,
        step=(data + step) / seconds,
        pipeline=length(ranges[PIPELINE]) / seconds,
        idle=length(waiting) / seconds,
    )


def _is_transfer(name: str, device: str, on_device: bool) -> bool:
    """gloo's operations from their submission to their end; NCCL's kernels."""
    if device == "cpu":
        return name.startswith("gloo:")
    return on_device and "nccl" in name.lower()


def merge(intervals: list[Interval]) -> list[Interval]:
    """The union, as intervals that neither touch nor overlap, in order."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return merged


def intersect(left: list[Interval], right: list[Interval]) -> list[Interval]:
    """What lies in both; the arguments are merged."""
    found, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        start, end = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if start < end:
            found.append((start, end))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return found


def subtract(left: list[Interval], right: list[Interval]) -> list[Interval]:
    """What lies in ``left`` alone; the arguments are merged."""
    edges = [-float("inf"), *(edge for interval in right for edge in interval), float("inf")]
    gaps = list(zip(edges[::2], edges[1::2], strict=True))
    return intersect(left, gaps)


def length(intervals: list[Interval]) -> float:
    """How long merged intervals are together."""
    return sum(end - start for start, end in intervals)


@contextmanager
def _range(name: str, device: torch.device) -> Iterator[None]:
    synchronize(device)
    with record_function(name):
        yield
        synchronize(device)
