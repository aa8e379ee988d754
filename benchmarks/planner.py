"""How far predicted steps and peaks are from measured ones, and whether the plan chooses well.

python benchmarks/planner.py --output-dir runs/planner [--groups N] [--layouts N] [--record FILE]

A group is one piece of work (model, batch, precision) on so many CPU processes. Of its candidates
some are drawn, with a seed. ``vit-colossal bench`` predicts and measures them: each group is
calibrated, which trains none of its layouts, just before each of three repetitions; these are
interleaved, in processes that are forked from this one. Memory is measured apart, in processes
of their own, on models that take enough of it. What is ended goes on where it was when it is
started again with the same folder on the same commit.
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import json
import os
import random
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

from vit_colossal.runtime.interpreter import keep_threads_awake, without_collecting

keep_threads_awake()  # for PyTorch, which is imported now and forked with all it holds

import torch
from planner_report import MemoryRow, TimeRow, write_report

from vit_colossal.bench.case import BenchCase
from vit_colossal.bench.compare import Bench, Row
from vit_colossal.bench.config import BenchConfig
from vit_colossal.bench.data import SYNTHETIC_LABELS
from vit_colossal.bench.worker import main as run_case
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.forecast.candidates import Candidate, Candidates, candidates
from vit_colossal.forecast.devices import room_here
from vit_colossal.forecast.subject import subject
from vit_colossal.rundir.record import describe_software
from vit_colossal.runtime import activate
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
    for model, (processes, precision) in product(
        _SIZES, ((2, "fp32"), (1, "fp32"), (4, "fp32"), (2, "bf16"))
    )
]
WEIGHED = [
    Group(model, 224, batch, processes, precision)
    for (model, batch), (processes, precision) in product(
        (("vit-small", 32), ("vit-base", 16)), ((1, "fp32"), (2, "fp32"), (2, "bf16"))
    )
]


def planned(group: Group) -> tuple[Candidates, int]:
    """Its candidates that fit, and the parameters of its model."""
    asked = BenchConfig(**group.settings)
    room = room_here(asked, group.processes)
    about = subject(asked, set(group.settings), room.device, group.processes, len(SYNTHETIC_LABELS))
    every = candidates(about.plan, set(group.settings), group.processes, room, about.whole)
    fitting = tuple(each for each in every.found if each.fits(room))
    return replace(every, found=fitting), about.whole.numel


def draw(every: Iterable[Candidate], count: int) -> list[Candidate]:
    """Some of them, the same each time."""
    ordered = sorted(every, key=lambda each: each.flags)
    return random.Random(SEED).sample(ordered, min(count, len(ordered)))


def case_of(group: Group, candidate: Candidate, steps: int, folder: Path) -> BenchCase:
    """The candidate as a case of the benchmark, with rates of its own in the folder."""
    asked = BenchConfig(**group.settings, cache_dir=folder / "cache")
    job: TrainConfig = asked.job(steps + WARMUP, candidate.choice)
    name = f"{group}: {candidate.flags}"
    return BenchCase(name, job, group.processes, group.threads, "synthetic", steps, WARMUP)


def compare_times(groups: list[Group], layouts: int, folder: Path) -> Iterable[list[TimeRow]]:
    """Calibrate, predict, then measure; yields what there is after each repetition of a group."""
    config = BenchConfig(repetitions=REPETITIONS, profile_steps=0)
    begun: list[tuple[Bench, Iterator[None], Group, int]] = []
    predictions: list[list[list[float]]] = [[] for _ in groups]
    for repetition in range(REPETITIONS):
        for number, group in enumerate(groups):
            if repetition == 0:
                every, parameters = planned(group)
                cases = [case_of(group, each, STEPS, folder) for each in draw(every.found, layouts)]
                place = folder / "times" / str(number)
                bench = Bench(config, cases, place, describe_software()["commit"], _forked)
                begun.append((bench, bench.run(), group, parameters))
            bench, steps, *_ = begun[number]
            file = bench.folder / f"predicted-{bench.commit}-{repetition}.json"
            predictions[number].append(_predictions(bench, folder, file))
            for _ in range(len(bench.rows)):
                next(steps, None)
            yield [
                _timed(row, group, parameters, list(seconds))
                for (bench, _, group, parameters), each in zip(begun, predictions, strict=False)
                for row, *seconds in zip(bench.rows, *each, strict=True)
            ]


def _predictions(bench: Bench, folder: Path, file: Path) -> list[float]:
    """Seconds of each row's step by rates that are measured now, or were for this repetition:
    what else the machine does changes slowly."""
    if not file.exists():
        shutil.rmtree(folder / "cache" / "rates", ignore_errors=True)
        bench.predict()
        predicted = [row.prediction and row.prediction.step_seconds for row in bench.rows]
        assert None not in predicted, [row.error or row.prediction for row in bench.rows]
        file.write_text(json.dumps(predicted))
    seconds: list[float] = json.loads(file.read_text())
    return seconds


def _timed(row: Row, group: Group, parameters: int, predictions: list[float]) -> TimeRow:
    about = row.case.name, str(group), group.processes, parameters
    return TimeRow(*about, predictions, row.step_seconds, row.error)


def compare_memory(groups: list[Group], layouts: int, folder: Path) -> Iterable[list[MemoryRow]]:
    """Predict and measure what the fullest rank grows by; yields after each case."""
    cases = []
    for group in groups:
        every, _ = planned(group)
        large = [each for each in every.of_each_layout if each.memory.growth >= LARGE]
        cases += [case_of(group, each, 2, folder) for each in draw(large, layouts)]
    config = BenchConfig(repetitions=1, profile_steps=0, calibrate=False)
    bench = Bench(config, cases, folder / "memory", describe_software()["commit"])
    bench.predict()
    for _ in bench.run():
        yield [_weighed(row) for row in bench.rows]


def _weighed(row: Row) -> MemoryRow:
    growth = None if row.prediction is None else row.prediction.growth_bytes
    assert growth is not None, row.error or row.prediction
    return MemoryRow(row.case.name, growth, row.growth_bytes, row.error)


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
    parser.add_argument("--groups", type=int, default=len(TIMED), help="of times, only so many")
    parser.add_argument("--layouts", type=int, default=4, help="to draw of each group")
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
    for memory in compare_memory(WEIGHED, asked.layouts, folder):
        text = write_report(times, memory, place)
    print(text)


if __name__ == "__main__":
    main()
