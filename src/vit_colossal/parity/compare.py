"""``vit-colossal parity``: the same training in every layout, in a plain loop and in Trainer.

Everything is compared step by step with a plain single-process PyTorch loop, see ``references``.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

from vit_colossal.errors import ExitCode
from vit_colossal.parity.case import Case
from vit_colossal.parity.config import NNSCALER, ParityConfig
from vit_colossal.parity.nnscaler import compare_nnscaler, require_nnscaler
from vit_colossal.parity.plain_loop import Grouping
from vit_colossal.parity.references import References
from vit_colossal.parity.row import Row
from vit_colossal.parity.subjects import make_cases
from vit_colossal.parity.trace import Trace, has_trace, remove_trace
from vit_colossal.parity.worker import run_cases
from vit_colossal.plan.plan import Device, make_plan
from vit_colossal.runtime import activate
from vit_colossal.runtime.group import Topology, choose_device
from vit_colossal.runtime.interpreter import without_collecting
from vit_colossal.runtime.spawn import Command, can_fork, launch

logger = logging.getLogger("vit_colossal")

#: From a file of cases to what runs them in each process.
Worker = Callable[[Path], Command]


def _worker(file: Path) -> Command:
    return partial(run_cases, file)


def run_parity(config: ParityConfig) -> tuple[list[Row], Path]:
    """Run all subjects and compare them.

    Args:
        config: the job, and which layouts on how many processes.

    Returns:
        The rows and the folder with ``parity.json``, ``parity.png``, ``parity.md`` and the traces.
    """
    processes = config.nproc or 2
    software = require_nnscaler(config)
    # Like every rank, so that products are blocked alike.
    torch.set_num_threads(1)
    everyone = Topology(world_size=processes, local_world_size=processes)
    choose_device(config.job(), everyone)  # one CUDA device for each, where they are asked for
    folder = config.output_dir or Path("runs") / time.strftime("parity-%Y%m%d-%H%M%S")
    cases = make_cases(config, processes, folder)
    folder.mkdir(parents=True, exist_ok=True)
    references = References(config, folder)
    if can_fork():
        _import_all(cases)
        references = References(config, folder, len(os.sched_getaffinity(0)))
    rows = compare_cases(references, cases, folder)
    if config.has_peer(NNSCALER):
        rows += compare_nnscaler(references, processes, folder, software)
    return rows, folder


def compare_cases(
    references: References, cases: list[Case], folder: Path, worker: Worker = _worker
) -> list[Row]:
    """Run the cases in processes of their own and judge each against the plain loop.

    Args:
        references: the plain loops of the job.
        cases: what to run.
        folder: for the files that pass between this process and the workers.
        worker: what runs a file of cases in each process.
    """
    torch.set_num_threads(1)
    failed = _run_cases(cases, folder, worker)
    mirrors = [_mirror(case) for case in cases]
    done = [(c.config, m) for c, m in zip(cases, mirrors, strict=True) if c.trace_dir not in failed]
    references.prepare(done)
    return [
        _judge(case, mirror, references, failed.get(case.trace_dir))
        for case, mirror in zip(cases, mirrors, strict=True)
    ]


@without_collecting()
def _import_all(cases: list[Case]) -> None:
    """Once for all processes of all launches, which are forked from this one."""
    activate("cpu")
    from vit_colossal.strategies.choice import strategy_of

    for plugin in {case.config.plugin for case in cases}:
        strategy_of(plugin)
    if any(case.trainer_optim for case in cases):
        import_module("vit_colossal.parity.peer")


def _run_cases(cases: list[Case], folder: Path, worker: Worker) -> dict[Path, int]:
    """One launch per number of processes; a case that breaks it is left out of the next.

    Returns:
        The exit codes of the launches that ended in a case, by the case's folder.

    Raises:
        SystemExit: the comparison was asked to end.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    ordered = sorted(cases, key=lambda case: case.processes)
    numbered = [replace(c, place=f"{n}/{len(cases)}") for n, c in enumerate(ordered, start=1)]
    for case in cases:
        remove_trace(case.trace_dir)
    failed = {}
    for processes in sorted({case.processes for case in cases}):
        todo = [case for case in numbered if case.processes == processes]
        while todo:
            logger.info("running %d cases on %d processes", len(todo), processes)
            file = folder / f"cases-{processes}.json"
            file.write_text(json.dumps([case.to_json() for case in todo]), encoding="utf-8")
            code = launch(worker(file), processes)
            if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
                raise SystemExit(code)
            left = [case for case in todo if not has_trace(case.trace_dir)]
            failed.update({case.trace_dir: code for case in left[:1]})
            todo = left[1:]
    return failed


def _mirror(case: Case) -> Grouping:
    """In which parts the plain loop computes as the case's layout does."""
    return Grouping.of(make_plan(case.config, case.processes, Device(case.config.device)))


def _judge(case: Case, mirror: Grouping, references: References, exit_code: int | None) -> Row:
    """Compare one trace with the plain loop that mirrors its layout."""
    job = case.config
    row = Row(case.name, job.precision or "fp32", job.clip_grad_norm, case.processes)
    if exit_code is not None:
        row.problems.append(f"the run failed with exit code {exit_code}: see its messages above")
        return row
    trace = Trace.load(case.trace_dir)
    row.judge(trace, references.trace(job, mirror), references.tolerance(job))
    return row
