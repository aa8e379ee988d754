"""How far predicted steps and peaks are from measured ones, and whether the plan chooses well.

python benchmarks/planner.py --output-dir runs/planner [--groups N] [--layouts N] [--record FILE]

A group is one piece of work (model, batch, precision) on so many CPU processes. Each is calibrated
once, as ``vit-colossal plan --measure`` does, which trains none of its layouts; of its candidates
some are drawn, with a seed, and measured by the machinery of ``vit-colossal bench``: three
repetitions, interleaved, in processes that are forked from this one. Memory is measured apart, in
processes of their own, on models that take enough of it. What is ended goes on where it was when it
is started again with the same folder on the same commit.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import torch
from planner_report import MemoryRow, TimeRow, write_report

from vit_colossal.bench.case import BenchCase
from vit_colossal.bench.compare import Bench
from vit_colossal.bench.config import BenchConfig
from vit_colossal.bench.data import SYNTHETIC_LABELS
from vit_colossal.bench.worker import main as run_case
from vit_colossal.calibration.calibrate import timed
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.forecast.candidates import CHOSEN, Candidate, Candidates, candidates
from vit_colossal.forecast.devices import Room, room_here
from vit_colossal.forecast.subject import Subject, subject
from vit_colossal.rundir.record import describe_software
from vit_colossal.runtime import activate
from vit_colossal.runtime.interpreter import without_collecting
from vit_colossal.runtime.spawn import Command
from vit_colossal.strategies.choice import strategy_of

STEPS, WARMUP, REPETITIONS, SEED = 4, 1, 3, 0
#: Bytes that a process grows by at least where its memory is compared.
LARGE = 500 * 2**20


@dataclass(frozen=True)
class Group:
    """One piece of work on so many processes."""

    model: str
    image_size: int
    global_batch: int
    processes: int
    precision: str

    def __str__(self) -> str:
        sizes = f"{self.model} {self.image_size} px, batch {self.global_batch}"
        return f"{sizes}, {self.precision}, {self.processes} processes"

    @property
    def settings(self) -> dict[str, Any]:
        """Of all its layouts."""
        return {
            "model": self.model,
            "model_overrides": {"image_size": self.image_size},
            "global_batch_size": self.global_batch,
            "precision": self.precision,
            "device": "cpu",
        }

    @property
    def threads(self) -> int:
        """Of each process."""
        return max(1, len(os.sched_getaffinity(0)) // self.processes)


_SIZES = (("vit-tiny", 64), ("vit-tiny", 160), ("vit-small", 64))
#: The first ones are the smallest of each number of processes.
TIMED = [
    Group(*model, 32, processes, precision)
    for model, precision, processes in product(_SIZES, ("fp32", "bf16"), (2, 1, 4))
]
WEIGHED = [
    Group(model, 224, batch, processes, precision)
    for (model, batch), (processes, precision) in product(
        (("vit-small", 32), ("vit-base", 16)), ((1, "fp32"), (2, "fp32"), (2, "bf16"))
    )
]


def planned(group: Group, folder: Path) -> tuple[Candidates, Subject, Room]:
    """What the plan knows of a group before anything is measured."""
    os.environ["OMP_NUM_THREADS"] = str(group.threads)
    asked = BenchConfig(**group.settings, cache_dir=folder / "cache")
    room = room_here(asked, group.processes)
    about = subject(asked, set(group.settings), room.device, group.processes, len(SYNTHETIC_LABELS))
    every = candidates(about.plan, set(group.settings), group.processes, room, about.whole)
    return every, about, room


def draw(every: Iterable[Candidate], count: int) -> list[Candidate]:
    """Some of them, the same each time."""
    ordered = sorted(every, key=lambda each: each.flags)
    return random.Random(SEED).sample(ordered, min(count, len(ordered)))


def case_of(group: Group, candidate: Candidate, steps: int) -> BenchCase:
    """The candidate as a case of the benchmark."""
    changes = {name: getattr(candidate.plan.config, name) for name in CHOSEN}
    job: TrainConfig = BenchConfig(**group.settings).job(steps + WARMUP, changes)
    name = f"{group}: {candidate.flags}"
    return BenchCase(name, job, group.processes, group.threads, "synthetic", steps, WARMUP)


def compare_times(groups: list[Group], layouts: int, folder: Path) -> Iterable[list[TimeRow]]:
    """Calibrate, predict, then measure; yields what there is after each repetition."""
    drawn: dict[str, tuple[Group, Candidate, int]] = {}
    cases = []
    for group in groups:
        every, about, room = planned(group, folder)
        with_seconds, _ = timed(every, about, group.processes, room)
        for candidate in draw((c for c in with_seconds.found if c.fits(room)), layouts):
            cases.append(case_of(group, candidate, STEPS))
            drawn[cases[-1].name] = group, candidate, about.whole.numel
    config = BenchConfig(repetitions=REPETITIONS, profile_steps=0)
    commit = describe_software()["commit"]
    bench = Bench(config, cases, folder / "times", commit, _forked)
    for _ in bench.run():
        rows = []
        for row in bench.rows:
            group, candidate, parameters = drawn[row.case.name]
            seconds = [each["window_seconds"] / STEPS for each in row.repetitions]
            assert candidate.time is not None
            rows.append(
                TimeRow(
                    *(row.case.name, str(group), group.processes, parameters),
                    *(candidate.time.total, seconds, row.error),
                )
            )
        yield rows


def compare_memory(groups: list[Group], layouts: int, folder: Path) -> Iterable[list[MemoryRow]]:
    """Predict and measure what the fullest rank grows by; yields after each case."""
    predicted: dict[str, int] = {}
    cases = []
    for group in groups:
        every, _, room = planned(group, folder)
        large = [c for c in every.of_each_layout if c.fits(room) and c.memory.growth >= LARGE]
        for candidate in draw(large, layouts):
            cases.append(case_of(group, candidate, 2))
            predicted[cases[-1].name] = candidate.memory.growth
    config = BenchConfig(repetitions=1, profile_steps=0)
    bench = Bench(config, cases, folder / "memory", describe_software()["commit"])
    for _ in bench.run():
        yield [
            MemoryRow(row.case.name, predicted[row.case.name], _growth(row.repetitions), row.error)
            for row in bench.rows
        ]


def _growth(repetitions: list[dict[str, Any]]) -> int | None:
    """Bytes that the rank which grew most took beyond what it had before."""
    if not repetitions:
        return None
    peaks = repetitions[0]["peak_memory_bytes"], repetitions[0]["resident_before_bytes"]
    return max(peak - before for peak, before in zip(*peaks, strict=True))


def _forked(order: Path) -> Command:
    return partial(run_case, order)


@without_collecting()
def import_all() -> None:
    """Once for all processes that are forked; threads that ran before a fork do not run after."""
    torch.set_num_threads(1)
    activate("cpu")
    for plugin in ("ddp", "zero1", "zero2", "gemini", "hybrid"):
        strategy_of(plugin)
    import_module("vit_colossal.training.fit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--groups", type=int, default=len(TIMED), help="only the first so many")
    parser.add_argument("--layouts", type=int, default=5, help="to draw of each group")
    parser.add_argument("--record", type=Path, help="where the tables go, without a suffix")
    asked = parser.parse_args()
    folder = asked.output_dir
    place = asked.record or folder / "planner"
    import_all()
    times: list[TimeRow] = []
    memory: list[MemoryRow] = []
    text = ""
    for times in compare_times(TIMED[: asked.groups], asked.layouts, folder):
        text = write_report(times, memory, place)
    for memory in compare_memory(WEIGHED[: asked.groups], asked.layouts, folder):
        text = write_report(times, memory, place)
    print(text)


if __name__ == "__main__":
    main()
