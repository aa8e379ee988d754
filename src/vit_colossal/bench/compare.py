"""``vit-colossal bench``: strategies and peers side by side, each case in processes of its own.

All cases run once, then all once more, and so on, every other time in reverse: what the machine
does meanwhile meets all of them. Every repetition is written at once, and not measured again when
the same command is started anew with the same ``--output-dir`` on the same commit.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from vit_colossal.bench.case import BenchCase, Order, write_result
from vit_colossal.bench.config import BenchConfig
from vit_colossal.bench.data import plan_case, prepare_work
from vit_colossal.bench.peer import peer_command
from vit_colossal.bench.prediction import Prediction, Predictor
from vit_colossal.config.plugins import facts_of
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError, ExitCode
from vit_colossal.model.build import flops_per_image
from vit_colossal.plan.parallel_dims import bubble
from vit_colossal.plan.plan import RunPlan
from vit_colossal.runtime.group import Topology
from vit_colossal.runtime.spawn import Command, Program, launch

logger = logging.getLogger("vit_colossal")

#: Makes the command of one repetition's processes from the file that orders it.
Worker = Callable[[Path], Command]


def _program(order: Path) -> Command:
    return Program(("-m", "vit_colossal.bench.worker", str(order)))


@dataclass
class Row:
    """One case and what was measured.

    Attributes:
        case: what it is.
        facts: what follows from its plan: ``device``, ``layout``, ``batches``, ``global_batch``,
            ``flops_per_image`` and, for a pipeline, ``bubble``.
        repetitions: the numbers of each launch.
        error: why there are no more of them.
        config: the case's configuration with its defaults, once it is planned.
        prediction: what it was predicted to take; None of a peer, and of what is not planned.
    """

    case: BenchCase
    facts: dict[str, Any] = field(default_factory=dict)
    repetitions: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    config: TrainConfig | None = None
    prediction: Prediction | None = None

    @property
    def step_seconds(self) -> list[float]:
        """Of each repetition the mean of its timed steps."""
        return [one["window_seconds"] / self.case.steps for one in self.repetitions]

    @property
    def growth_bytes(self) -> int | None:
        """What the rank that grew most took beyond what it had before; the median repetition.

        None where that was not measured, as of peers.
        """
        if not all("resident_before_bytes" in one for one in self.repetitions):
            return None
        sizes = [
            zip(one["peak_memory_bytes"], one["resident_before_bytes"], strict=True)
            for one in self.repetitions
        ]
        found = [max(peak - before for peak, before in ranks) for ranks in sizes]
        return int(median(found)) if found else None

    @property
    def precision(self) -> str:
        """What it computes in."""
        return (self.config or self.case.config).precision or "fp32"

    @property
    def arithmetic(self) -> str:
        """The same, and for 16 bits which kind, as these round differently."""
        if self.precision == "fp32":
            return self.precision
        autocasts = self.case.peer is not None or facts_of(self.case.config.plugin).autocasts
        return f"{self.precision} {'autocast' if autocasts else 'weights'}"


class Bench:
    """The rows of a benchmark, filled in as repetitions are run.

    Attributes:
        rows: one for each case, in order.
        folder: where everything is written.
    """

    def __init__(
        self,
        config: BenchConfig,
        cases: list[BenchCase],
        folder: Path,
        commit: str | None,
        worker: Worker = _program,
    ) -> None:
        """Plan every case; one that is refused keeps its row, with the reason.

        Args:
            config: how often and how long.
            cases: what to measure.
            folder: where everything is written; ``--overwrite`` drops what was measured before.
            commit: of the code; what another one measured is not used.
            worker: what measures a case that is no peer.
        """
        self.config, self.folder, self.commit, self.worker = config, folder, commit, worker
        self.rows = [Row(case) for case in cases]
        self._work: dict[str, Path] = {}
        self._plans: dict[str, tuple[RunPlan, int]] = {}
        if config.overwrite:
            shutil.rmtree(folder / "raw", ignore_errors=True)
        (folder / "raw").mkdir(parents=True, exist_ok=True)
        for row in self.rows:
            try:
                plan, data = plan_case(row.case, _topology(row.case), None)
                row.facts, row.config = _facts(plan, len(data.labels)), plan.config
                if row.case.peer is not None:
                    peer_command(row.case, plan, Path(), Path())
                else:
                    self._plans[row.case.slug] = plan, len(data.labels)
                self._work[row.case.slug] = prepare_work(plan, data, folder / "work")
            except ConfigError as error:
                row.error = "refused: " + "; ".join(error.problems)

    def predict(self) -> None:
        """Give each row its prediction, which may take a minute of measuring for some of them."""
        predictor = Predictor(calibrate=self.config.calibrate)
        for row in self.rows:
            if not row.error and row.case.slug in self._plans:
                row.prediction = predictor.predict(row.case, *self._plans[row.case.slug])

    def run(self) -> Iterator[None]:
        """Measure what is not measured yet; yields after every repetition of a case."""
        for repetition in range(self.config.repetitions):
            for row in self.rows if repetition % 2 == 0 else self.rows[::-1]:
                if not row.error:
                    self._repeat(row, repetition)
                    yield

    def _repeat(self, row: Row, repetition: int) -> None:
        case = row.case
        result = self.folder / "raw" / f"{case.slug}-{repetition}.json"
        if result.exists() and json.loads(result.read_text()).get("commit", "") != self.commit:
            result.unlink()
        if not result.exists():
            total = self.config.repetitions
            logger.info("%s: repetition %d of %d", case.name, repetition + 1, total)
            self._launch(case, result, profile=repetition == 0)
        values = json.loads(result.read_text(encoding="utf-8"))
        if "error" in values:
            row.error = values["error"]
        else:
            row.repetitions.append(values)

    def _launch(self, case: BenchCase, result: Path, *, profile: bool) -> None:
        load, work = os.getloadavg()[0], self._work[case.slug]
        os.environ["OMP_NUM_THREADS"] = str(case.threads)
        order = result.with_suffix(".order")
        command = self.worker(order)
        if case.peer is not None:
            plan, _ = plan_case(case, _topology(case), None)
            command = Program(tuple(peer_command(case, plan, work, result)))
        started = time.time()
        steps = self.config.profile_steps if profile else 0
        Order(case, work, result, started, steps).write(order)
        with _limited(self.config.case_timeout):
            code = launch(command, case.processes)
        if code in (
            ExitCode.INTERRUPTED,
            ExitCode.TERMINATED,
        ):  # the whole benchmark was asked to end
            raise SystemExit(code)
        values: dict[str, Any] = {"error": f"exit code {code}: see the messages of the run"}
        if result.exists():
            values = json.loads(result.read_text(encoding="utf-8"))
        if "first_step_at" in values:
            values["time_to_first_step"] = values.pop("first_step_at") - started
        write_result(result, {**values, "load_before": load, "commit": self.commit})


def _topology(case: BenchCase) -> Topology:
    return Topology(world_size=case.processes, local_world_size=case.processes)


def _facts(plan: RunPlan, num_labels: int) -> dict[str, Any]:
    idle = bubble(plan.dims.pp, plan.batches.num_microbatches) if plan.dims.pp > 1 else None
    return {
        "device": plan.device.kind,
        "layout": str(plan.dims),
        "batches": str(plan.batches),
        "global_batch": plan.batches.global_batch,
        "flops_per_image": flops_per_image(plan.spec, num_labels),
        "bubble": idle,
    }


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """End the processes that this one started when they take longer."""

    def end() -> None:
        logger.warning("no end after %g s (--case-timeout): the run is ended", seconds)
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
