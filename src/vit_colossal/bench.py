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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from vit_colossal.bench_case import BenchCase, Order, write_result
from vit_colossal.bench_data import plan_case, prepare_work
from vit_colossal.bench_peer import peer_command
from vit_colossal.config import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.launcher import launch
from vit_colossal.layouts import fitting_layouts
from vit_colossal.model import flops_per_image
from vit_colossal.model_spec import read_spec
from vit_colossal.parallel_dims import bubble
from vit_colossal.runtime.launch import Topology
from vit_colossal.train_config import problems_of
from vit_colossal.validation import RunPlan

logger = logging.getLogger("vit_colossal")

WORKER = ["-m", "vit_colossal.bench_worker"]


class BenchConfig(TrainConfig):
    """Measure strategies and peers side by side."""

    cases: Path | None = None
    """YAML file with the cases, in place of --layouts and --peers; see docs/performance.md."""
    layouts: str = "all"
    """Comma-separated layout names (ddp, zero1, hybrid tp2, ...), or all that fit --nproc."""
    peers: str = ""
    """Comma-separated scripts to run beside them, such as benchmarks/peers/ddp_loop.py."""
    data: Literal["synthetic", "real"] = "synthetic"
    """Images held in memory, or the data set's through the loader."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads per process; default the cores divided by --nproc."""
    steps: int = Field(10, ge=1)
    """Optimizer steps that are timed, in each repetition."""
    warmup_steps: int = Field(3, ge=1)
    """Steps before them that are not."""
    repetitions: int = Field(5, ge=1)
    """How often every case is run, in processes of its own each time."""
    profile_steps: int = Field(3, ge=0)
    """Steps under the profiler after the timed ones of the first repetition; 0 for none."""
    case_timeout: FiniteFloat = Field(900.0, gt=0)
    """Seconds after which one repetition of one case is ended."""

    def job(self, steps: int, changes: dict[str, Any]) -> TrainConfig:
        """The run of a case: a constant learning rate, nothing saved.

        Raises:
            ConfigError: the changes are no settings.
        """
        own = set(BenchConfig.model_fields) - set(TrainConfig.model_fields)
        values = {key: value for key, value in dict(self).items() if key not in own}
        fixed: dict[str, Any] = {"nproc": None, "output_dir": None, "save_every": 0, "epochs": 1}
        fixed |= {"max_steps": steps, "lr_schedule": "constant", "warmup_ratio": 0.0}
        fixed |= {"tensorboard": False, "overwrite": False}
        if self.model is None and "model" not in changes:
            fixed["model"] = "vit-micro"
        if self.dataset is None and "dataset" not in changes:
            fixed["dataset"] = "digits"
        try:
            return TrainConfig.model_validate({**values, **fixed, **changes})
        except ValidationError as error:
            raise ConfigError(problems_of(error)) from None


class CaseSpec(BaseModel):
    """One entry of a cases file; what is left out is as on the command line."""

    model_config = ConfigDict(extra="forbid")

    name: str
    peer: Path | None = None
    processes: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1)
    data: Literal["synthetic", "real"] | None = None
    steps: int | None = Field(default=None, ge=1)
    warmup_steps: int | None = Field(default=None, ge=1)
    settings: dict[str, Any] = {}


class CasesFile(BaseModel):
    """A cases file: settings of all cases, and the cases."""

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any] = {}
    cases: list[CaseSpec]


@dataclass
class Row:
    """One case and what was measured.

    Attributes:
        case: what it is.
        facts: what follows from its plan: ``device``, ``layout``, ``batches``, ``global_batch``,
            ``flops_per_image`` and, for a pipeline, ``bubble``.
        repetitions: the numbers of each launch.
        error: why there are no more of them.
    """

    case: BenchCase
    facts: dict[str, Any] = field(default_factory=dict)
    repetitions: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""


def make_cases(config: BenchConfig) -> list[BenchCase]:
    """The cases of the command line or the cases file.

    Raises:
        ConfigError: the file cannot be used, or a name in it or on the command line is unknown.
    """
    specs = _from_layouts(config) if config.cases is None else _from_file(config.cases)
    names = [spec.name for spec in specs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError([f"--cases: two cases are called {name!r}" for name in twice])
    return [_case(config, spec) for spec in specs]


def _case(config: BenchConfig, spec: CaseSpec) -> BenchCase:
    processes = spec.processes or config.nproc or 1
    cores = len(os.sched_getaffinity(0))
    steps, warmup = spec.steps or config.steps, spec.warmup_steps or config.warmup_steps
    try:
        job = config.job(steps + warmup, spec.settings)
    except ConfigError as error:
        raise ConfigError([f"case {spec.name!r}: {text}" for text in error.problems]) from None
    return BenchCase(
        name=spec.name,
        config=job,
        processes=processes,
        threads=spec.threads or config.threads or max(1, cores // processes),
        data=spec.data or config.data,
        steps=steps,
        warmup=warmup,
        peer=spec.peer,
    )


def _from_file(path: Path) -> list[CaseSpec]:
    try:
        file = CasesFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError([f"--cases {path}: cannot be read ({error})"]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"--cases {path}: not YAML ({' '.join(str(error).split())})"]) from None
    except ValidationError as error:
        places = [(".".join(map(str, item["loc"])), item["msg"]) for item in error.errors()]
        raise ConfigError([f"--cases {path}: {place}: {text}" for place, text in places]) from None
    return [
        spec.model_copy(update={"settings": {**file.settings, **spec.settings}})
        for spec in file.cases
    ]


def _from_layouts(config: BenchConfig) -> list[CaseSpec]:
    spec = read_spec(config.model or "vit-micro", config.model_overrides)
    fitting = fitting_layouts(config.nproc or 1, spec)
    if config.precision is not None:
        fitting = [layout for layout in fitting if layout.precision == config.precision]
    wanted = {name.strip() for name in config.layouts.split(",")}
    known = {layout.name for layout in fitting}
    if config.layouts != "all":
        unknown = sorted(wanted - known)
        if unknown:
            listed = ", ".join(sorted(known))
            raise ConfigError([f"--layouts {name}: not one of {listed}" for name in unknown])
        fitting = [layout for layout in fitting if layout.name in wanted]
    scripts = [Path(name.strip()) for name in config.peers.split(",") if name.strip()]
    peer = {"plugin": "ddp", "precision": config.precision or "fp32"}
    return [
        *(CaseSpec(name=path.stem, peer=path, settings=peer) for path in scripts),
        *(CaseSpec(name=str(layout), settings=layout.flags) for layout in fitting),
    ]


class Bench:
    """The rows of a benchmark, filled in as repetitions are run.

    Attributes:
        rows: one for each case, in order.
        folder: where everything is written.
    """

    def __init__(
        self, config: BenchConfig, cases: list[BenchCase], folder: Path, commit: str | None
    ) -> None:
        """Plan every case; one that is refused keeps its row, with the reason.

        Args:
            config: how often and how long.
            cases: what to measure.
            folder: where everything is written; ``--overwrite`` drops what was measured before.
            commit: of the code; what another one measured is not used.
        """
        self.config, self.folder, self.commit = config, folder, commit
        self.rows = [Row(case) for case in cases]
        self._work: dict[str, Path] = {}
        if config.overwrite:
            shutil.rmtree(folder / "raw", ignore_errors=True)
        (folder / "raw").mkdir(parents=True, exist_ok=True)
        for row in self.rows:
            topology = Topology(world_size=row.case.processes, local_world_size=row.case.processes)
            try:
                plan, data = plan_case(row.case, topology, None)
                row.facts = _facts(plan, len(data.labels))
                if row.case.peer is not None:
                    peer_command(row.case, plan, Path(), Path())
                self._work[row.case.slug] = prepare_work(plan, data, folder / "work")
            except ConfigError as error:
                row.error = "refused: " + "; ".join(error.problems)

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
        if result.exists() and json.loads(result.read_text())["commit"] != self.commit:
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
        load = os.getloadavg()[0]
        os.environ["OMP_NUM_THREADS"] = str(case.threads)
        work, started = self._work[case.slug], time.time()
        with _limited(self.config.case_timeout):
            if case.peer is None:
                steps = self.config.profile_steps if profile else 0
                file = result.with_suffix(".order")
                Order(case, work, result, started, steps).write(file)
                code = launch([*WORKER, str(file)], case.processes)
            else:
                topology = Topology(world_size=case.processes, local_world_size=case.processes)
                plan, _ = plan_case(case, topology, None)
                code = launch(peer_command(case, plan, work, result), case.processes)
        values: dict[str, Any] = {
            "error": f"the run failed with exit code {code}: see its messages"
        }
        if result.exists():
            values = json.loads(result.read_text(encoding="utf-8"))
        if "first_step_at" in values:
            values["time_to_first_step"] = values.pop("first_step_at") - started
        write_result(result, {**values, "load_before": load, "commit": self.commit})


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
