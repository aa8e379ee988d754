"""One rank of a measurement: ``python -m vit_colossal.bench.worker ORDER.json``.

It runs the project's own training loop, reports and all; only evaluation and checkpoints are left
out. The clock hangs on the batches: when the loop asks for the next one, a step has ended.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.distributed as dist

from vit_colossal.bench.case import LOSSES, BenchCase, Order, write_result
from vit_colossal.bench.data import InMemory, plan_case
from vit_colossal.bench.timing import synchronize
from vit_colossal.data.samples import Batch
from vit_colossal.rundir.metrics import NullReporter, peak_memory_bytes
from vit_colossal.runtime.group import Topology, in_group
from vit_colossal.training.stop import LossWatch, StopRequest

if TYPE_CHECKING:
    from vit_colossal.data.prepare import RunData
    from vit_colossal.plan.plan import RunPlan
    from vit_colossal.training.job import Job
    from vit_colossal.training.loop import Batches

#: Numbers of which every rank's is kept.
_OF_EACH_RANK = ("peak_memory_bytes", "resident_before_bytes", "data_resident_bytes")


class Stopwatch:
    """A source of batches that notes when each is asked for and when it is there.

    Attributes:
        first_step_at: when the first step was done, in seconds since the epoch.
        first_step: how long it took, in seconds.
        began: start of the timed window, on the host's clock.
    """

    def __init__(self, source: Batches, warmup: int, device: torch.device) -> None:
        self.source, self.warmup, self.device = source, warmup, device
        self.first_step_at = self.first_step = self.began = 0.0
        self._asked: list[Any] = []
        self._waited: list[float] = []

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        source = self.source.batches(epoch, first_step)
        while True:
            self._next_step()
            asked = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                self._asked.pop()
                return
            self._waited.append(time.perf_counter() - asked)
            yield batch

    def _next_step(self) -> None:
        step = len(self._asked)
        if step == 1:
            synchronize(self.device)
            self.first_step_at = time.time()
            self.first_step = self._mark_seconds(self._asked[0], self._mark())
        if step == self.warmup:
            synchronize(self.device)
            dist.barrier()
            self.began = time.perf_counter()
        self._asked.append(self._mark())

    def _mark(self) -> Any:
        """A moment of the device: its own event, so that no step waits to be timed."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _mark_seconds(self, begin: Any, end: Any) -> float:
        if self.device.type != "cuda":
            return float(end - begin)
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    def finish(self) -> tuple[float, list[float], float]:
        """After the last step: seconds of the window, of each step, and of waiting for data."""
        last = self._mark()
        synchronize(self.device)
        window = time.perf_counter() - self.began
        marks = [*self._asked[self.warmup :], last]
        steps = [self._mark_seconds(begin, end) for begin, end in pairwise(marks)]
        return window, steps, sum(self._waited[self.warmup :])


class Losses(LossWatch):
    """Keeps the first losses beside watching them."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.seen: list[torch.Tensor] = []

    def update(self, loss: torch.Tensor | None) -> None:
        super().update(loss)
        if loss is not None and len(self.seen) < LOSSES:
            self.seen.append(loss.detach().float())


def batches_of(case: BenchCase, job: Job) -> Batches:
    """In the data's own order, which the peers' samplers have too."""
    ordered = replace(job.train_batches, shuffle=False)
    return InMemory(ordered) if case.data == "synthetic" else ordered


def run_loop(job: Job, batches: Batches, losses: LossWatch, folder: Path) -> None:
    """Train as a run does, without evaluation.

    Args:
        job: the case's.
        batches: where they come from.
        losses: looks at them.
        folder: for checkpoints, of which none is written.
    """
    from vit_colossal.training.fit import checkpointer
    from vit_colossal.training.loop import Loop

    kept = checkpointer(job, folder)
    loop = Loop(job, NullReporter(), kept, batches=batches, watch=losses, evaluates=False)
    with loop.watchdog.watching(job.engine.model):
        loop.run(StopRequest())


def measure(order: Order, plan: RunPlan, data: RunData, device: torch.device) -> dict[str, Any]:
    """Run one case; every rank returns the same numbers."""
    from vit_colossal.strategies.choice import strategy_of
    from vit_colossal.training.job import build_job
    from vit_colossal.training.meter import replica_means

    case = order.case
    strategy_of(plan.config.plugin)  # imports ColossalAI, which is not what training takes
    # On CUDA the peak counts what is allocated there, and nothing is yet.
    before = 0 if device.type == "cuda" else psutil.Process().memory_info().rss
    job = build_job(plan, data, device)
    engine = job.engine
    source = batches_of(case, job)
    stopwatch, losses = Stopwatch(source, case.warmup, device), Losses(device)
    with tempfile.TemporaryDirectory() as folder:
        run_loop(job, stopwatch, losses, Path(folder))
        window, steps, waited = stopwatch.finish()
    memory = peak_memory_bytes(device)
    values = {
        "losses": replica_means(engine, losses.seen),
        "window_seconds": window,
        "step_seconds": steps,
        "data_seconds": waited / case.steps,
        "first_step_at": stopwatch.first_step_at,
        "first_step_seconds": stopwatch.first_step,
        "peak_memory_bytes": memory,
        "resident_before_bytes": before,
        "data_resident_bytes": mapped_bytes(data.train.images),
    }
    phases = timeline = None
    if order.profile_steps:
        from vit_colossal.bench.phases import profile_phases, watch_step

        batches = _endless(source)
        phases = profile_phases(engine, batches, order.profile_steps).as_dict()
        if engine.pipelined:
            spans = watch_step(engine, next(batches))
            timeline = {"stage": engine.coordinate.pp, "spans": spans}
    ranks = _gather({**values, "phases": phases, "timeline": timeline})
    return _over_ranks(ranks, engine.dims.lead_rank)


def _over_ranks(ranks: list[dict[str, Any]], lead: int) -> dict[str, Any]:
    """The slowest rank's window, the lead's steps, the mean of the phases, all peaks."""
    phases = [rank["phases"] for rank in ranks]
    known = phases if phases[0] is not None else []
    return {
        "losses": ranks[lead]["losses"],
        "step_seconds": ranks[lead]["step_seconds"],
        "window_seconds": max(rank["window_seconds"] for rank in ranks),
        "data_seconds": max(rank["data_seconds"] for rank in ranks),
        "first_step_at": max(rank["first_step_at"] for rank in ranks),
        "first_step_seconds": max(rank["first_step_seconds"] for rank in ranks),
        **{name: [rank[name] for rank in ranks] for name in _OF_EACH_RANK},
        "phases": {key: sum(p[key] for p in known) / len(known) for key in known[0]}
        if known
        else None,
        "timeline": [rank["timeline"] for rank in ranks] if ranks[0]["timeline"] else None,
    }


def _gather(values: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(found, values)
    return found


def _endless(source: Batches) -> Iterator[list[Batch]]:
    while True:
        yield from source.batches(0)


def mapped_bytes(images: Any) -> int:
    """This process's share of a memory-mapped array: pages that n processes map count 1/n each.

    From /proc/self/smaps (proc(5), ``Pss``); 0 for an array that is not mapped, or without /proc.
    """
    file = getattr(images, "filename", None)
    smaps = Path("/proc/self/smaps")
    if file is None or not smaps.exists():
        return 0
    name, inside, total = str(Path(file).resolve()), False, 0
    for line in smaps.read_text(encoding="utf-8").splitlines():
        head = line.split(maxsplit=5)
        if "-" in head[0] and not head[0].endswith(":"):
            inside = head[-1] == name
        elif inside and head[0] == "Pss:":
            total += int(head[1]) * 1024
    return total


@contextmanager
def _failures_told(order: Order) -> Iterator[None]:
    """Write down why a rank fails, and leave at once: its peers may wait in a collective for ever.

    The launcher then ends them.
    """
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(error, torch.OutOfMemoryError):
            reason = f"out of memory: {reason}"
        write_result(order.result, {"error": reason})
        sys.excepthook(type(error), error, error.__traceback__)
        os._exit(1)


def main(path: Path) -> int:
    """Carry out an order; the lead rank, or one that fails, writes the result."""
    order, topology = Order.read(path), Topology.from_environment()
    with _failures_told(order):
        plan, data = plan_case(order.case, topology, order.work)
        with in_group(plan.device.kind, topology, timeout_s=300) as device, _failures_told(order):
            values = measure(order, plan, data, device)
            if topology.rank == plan.dims.lead_rank:
                seconds = values.pop("first_step_at") - order.started
                write_result(order.result, {**values, "time_to_first_step": seconds})
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
