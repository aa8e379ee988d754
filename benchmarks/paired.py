"""The strategies and their peers in the same two processes, one step of each in turn.

python benchmarks/paired.py --output runs/bench-cpu/paired.json [--rounds 40] [--model vit-tiny]

Processes that are started one after the other differ by several percent: by where their memory
lies, and by what else the machine does meanwhile. So here ddp, zero1, zero2, a pipeline, a plain
DDP loop, ``transformers.Trainer`` and a plain loop of one process are threads of the same
processes, of which one at a time takes a step, and what is compared are steps of the same round.
The order is turned around from round to round.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from threading import Semaphore, Thread
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, record_function

from vit_colossal.bench.case import BenchCase
from vit_colossal.bench.config import BenchConfig
from vit_colossal.bench.data import plan_case, prepare_work
from vit_colossal.bench.peer import peer_command
from vit_colossal.bench.phases import intersect, length, merge, silence_profiler, subtract
from vit_colossal.bench.report import describe_machine
from vit_colossal.bench.worker import batches_of, run_loop
from vit_colossal.data.samples import Batch
from vit_colossal.rundir.record import describe_software
from vit_colossal.runtime import activate
from vit_colossal.runtime.group import Topology, in_group
from vit_colossal.runtime.interpreter import without_collecting
from vit_colossal.runtime.spawn import launch
from vit_colossal.strategies.choice import strategy_of
from vit_colossal.training.stop import LossWatch

PEERS = Path(__file__).parent / "peers"
PROCESSES, WARMUP, PROFILED = 2, 3, 4
STEP = "paired/step"


class Turn:
    """One way to train, in a thread that runs only when it is its turn.

    Attributes:
        name: of the way.
        shares: of its profiled steps: in operators, in transfers while there are none, and neither.
    """

    def __init__(self, name: str, train: Callable[[Turn], object]) -> None:
        """Start nothing yet.

        Args:
            name: of the way.
            train: calls :meth:`step_done` between any two steps and after the last one.
        """
        self.name, self.profiled = name, False
        self.shares: list[dict[str, float]] = []
        self._train, self._error = train, None
        self._go, self._done = Semaphore(0), Semaphore(0)
        self._profile: tuple[profile, record_function] | None = None
        Thread(target=self._run, daemon=True).start()

    def step(self) -> float:
        """Let it take one step; returns its seconds on the slowest rank."""
        dist.barrier()
        began = perf_counter()
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error
        dist.barrier()
        return perf_counter() - began

    def step_done(self, loss: object = None) -> None:
        """Called by the thread: wait for the next turn."""
        if self._profile is not None:
            profiler, step = self._profile
            step.__exit__(None, None, None)
            profiler.stop()
            self.shares.append(shares(profiler))
            self._profile = None
        self._done.release()
        self._go.acquire()
        if self.profiled:
            # Only the thread that starts a profiler is looked at.
            profiler, step = profile(activities=[ProfilerActivity.CPU]), record_function(STEP)
            profiler.start()
            step.__enter__()
            self._profile = profiler, step

    def result(self) -> dict[str, object]:
        """What a peer hands back: nothing."""
        return {}

    def _run(self) -> None:
        self._go.acquire()
        try:
            self._train(self)
        except BaseException as error:  # it is raised in the main thread
            self._error = error
        self._done.release()


def shares(profiler: profile) -> dict[str, float]:
    """Of one step's time, what operators, transfers and all the rest took."""
    events = list(profiler.events() or [])

    def stretches(kind: Callable[[str], bool]) -> list[tuple[float, float]]:
        return merge([(e.time_range.start, e.time_range.end) for e in events if kind(e.name)])

    step = stretches(lambda name: name == STEP)
    computing = intersect(stretches(lambda name: name.startswith("aten::")), step)
    waiting = intersect(subtract(stretches(lambda name: name.startswith("gloo:")), computing), step)
    operators, transfers = length(computing) / length(step), length(waiting) / length(step)
    return {"operators": operators, "transfers": transfers, "rest": 1 - operators - transfers}


def ours(turn: Turn, case: BenchCase, work: Path, **layout: object) -> None:
    """The project's own loop, which asks for a batch when a step has ended."""
    from vit_colossal.training.job import build_job

    device = torch.device("cpu")
    laid_out = replace(case, config=case.config.replace(**layout))
    job = build_job(*plan_case(laid_out, Topology.from_environment(), work), device)
    source = batches_of(case, job)

    class InTurn:
        def batches(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
            for number, batch in enumerate(source.batches(epoch, first_step)):
                if number:
                    turn.step_done()
                yield batch

    with tempfile.TemporaryDirectory() as folder:
        run_loop(job, InTurn(), LossWatch(device), Path(folder))
    turn.step_done()


def peer(name: str, turn: Turn, case: BenchCase, work: Path) -> None:
    """The script of a peer, which tells its clock when a step has ended."""
    run_peer(name, turn, case, work, Topology.from_environment())


def alone(turn: Turn, case: BenchCase, work: Path) -> None:
    """The plain loop with all images in rank 0, while the others wait."""
    if dist.get_rank() == 0:
        run_peer("ddp_loop", turn, case, work, Topology(), "--alone")
    else:
        for _ in range(case.warmup + case.steps):
            turn.step_done()


def run_peer(
    name: str, turn: Turn, case: BenchCase, work: Path, place: Topology, *more: str
) -> None:
    """Its step is the turn's; ``more`` are flags beside those of the case."""
    sys.path.insert(0, str(PEERS))
    script, measure = import_module(name), import_module("measure")
    alike = replace(case, peer=PEERS / f"{name}.py")
    plan, _ = plan_case(alike, place, None)
    _, *flags = peer_command(alike, plan, work, Path())
    script.train(measure.read_flags("", [*flags, *more]), turn)


WAYS = {
    "ddp": ours,
    "zero1": partial(ours, plugin="zero1"),
    "zero2": partial(ours, plugin="zero2"),
    "pp2": partial(ours, plugin="hybrid", pp=PROCESSES),
    "plain": partial(peer, "ddp_loop"),
    "Trainer": partial(peer, "hf_trainer"),
    "1 process": alone,
}
#: Whose images/s are divided by whose.
COMPARED = [
    ("ddp", "plain"),
    ("zero1", "plain"),
    ("zero2", "plain"),
    ("ddp", "Trainer"),
    ("pp2", "1 process"),
]


def take_turns(case: BenchCase, work: Path, output: Path) -> int:
    """What each of the processes does; rank 0 writes."""
    with in_group("cpu", Topology.from_environment(), timeout_s=300):
        turns = [Turn(name, partial(train, case=case, work=work)) for name, train in WAYS.items()]
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        for number in range(case.warmup + case.steps):
            for turn in turns[:: 1 if number % 2 else -1]:
                turn.profiled = number >= case.warmup + case.steps - PROFILED
                seconds[turn.name].append(turn.step())
        for turn in turns:  # what they do after the last step
            turn.profiled = False
            turn.step()
        timed = {name: all_[case.warmup : -PROFILED] for name, all_ in seconds.items()}
        spent = {turn.name: mean_shares(turn.shares) for turn in turns}
        if dist.get_rank() == 0:
            output.write_text(json.dumps({"seconds": timed, "shares": spent}))
    return 0


def mean_shares(steps: list[dict[str, float]]) -> dict[str, float]:
    return {part: sum(step[part] for step in steps) / len(steps) for part in steps[0]}


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """The median, and between which values it lies with 95 % confidence.

    Whatever the distribution, the k-th smallest of n values is below the median, but for the tail
    of a binomial distribution (Conover 1999, section 3.2); k by its normal approximation.
    """
    ordered, count = sorted(ratios), len(ratios)
    first = max(0, math.floor((count - 1.96 * math.sqrt(count)) / 2))
    return median(ordered), ordered[first], ordered[count - 1 - first]


@without_collecting()
def import_all() -> None:
    """Once for both processes, which are forked."""
    silence_profiler()
    torch.set_num_threads(1)
    activate("cpu")
    strategy_of("ddp")
    import_module("vit_colossal.training.fit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=40, help="that are timed")
    parser.add_argument("--model", default="vit-tiny")
    parser.add_argument("--global-batch-size", type=int, default=32)
    asked = parser.parse_args()
    import_all()
    steps = asked.rounds + PROFILED
    settings = {"model": asked.model, "global_batch_size": asked.global_batch_size}
    job = BenchConfig(**settings, device="cpu").job(steps + WARMUP, {})
    case = BenchCase("paired", job, PROCESSES, 1, "synthetic", steps, WARMUP)
    place = Topology(world_size=PROCESSES, local_world_size=PROCESSES)
    with tempfile.TemporaryDirectory() as folder:
        work = prepare_work(*plan_case(case, place, None), Path(folder))
        raw = Path(folder) / "seconds.json"
        if code := launch(partial(take_turns, case, work, raw), PROCESSES):
            raise SystemExit(code)
        measured = json.loads(raw.read_text())
    seconds: dict[str, list[float]] = measured["seconds"]
    ratios = {
        f"{left} / {right}": interval(
            [peer / own for own, peer in zip(seconds[left], seconds[right], strict=True)]
        )
        for left, right in COMPARED
    }
    found: dict[str, Any] = {
        "command": f"python benchmarks/paired.py --rounds {asked.rounds} --model {asked.model} "
        f"--global-batch-size {asked.global_batch_size}",
        "machine": describe_machine(),
        "software": describe_software(),
        "step_seconds": {name: median(each) for name, each in seconds.items()},
        "ratios": ratios,
        "shares": measured["shares"],
    }
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps({"rates": {"paired": found}}, indent=1) + "\n")
    for name, (middle, low, high) in ratios.items():
        print(f"{name}, images/s: {middle:.3f} ({low:.3f} to {high:.3f})")
    for name, parts in measured["shares"].items():
        print(f"{name}: " + ", ".join(f"{part} {share:.1%}" for part, share in parts.items()))


if __name__ == "__main__":
    main()
