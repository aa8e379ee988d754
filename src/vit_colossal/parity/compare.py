"""``vit-colossal parity``: the same training in every layout, in a plain loop and in Trainer.

Everything is compared step by step with a plain single-process PyTorch loop. How far a run may be
off is not guessed: the plain loop is compared with itself under reordered reductions (other
micro-batches, summed backwards, split matrix products), and a layout may be off by
``TOLERANCE_FACTOR`` times as much.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vit_colossal.config.plugins import facts_of
from vit_colossal.config.train_config import RECIPE, TrainConfig
from vit_colossal.data.prepare import RunData
from vit_colossal.errors import ConfigError
from vit_colossal.parity.case import Case
from vit_colossal.parity.config import AS_PEERS, ParityConfig
from vit_colossal.parity.plain_loop import Grouping, train_plain
from vit_colossal.parity.trace import Difference, Trace, compare, first_beyond
from vit_colossal.plan.layouts import AUTOCAST, MASTERS, Layout, fitting_layouts, select
from vit_colossal.plan.plan import RunPlan, steps_per_epoch, total_steps
from vit_colossal.runtime.group import Topology
from vit_colossal.runtime.spawn import Program, launch
from vit_colossal.training.run import choose_device, plan_run

logger = logging.getLogger("vit_colossal")

#: How many times the plain loop's own spread a layout may be off.
TOLERANCE_FACTOR = 4.0
#: No tolerance is below two units in the last place of an fp32 loss.
FLOOR = 2.0**-22
#: The reductions that the plain loop is reordered by to measure its spread.
REORDERED = (
    Grouping(parts=2),
    Grouping(parts=4),
    Grouping(parts=8, backwards=True),
    Grouping(split_products=2),
    Grouping(split_products=4),
)
#: What transformers' Trainer updates with: the optimizer that runs here on a CPU, and its default,
#: whose fused kernel rounds some elements otherwise.
TRAINER_OPTIMS = ("adamw_torch", "adamw_torch_fused")
#: The settings of a recipe that `parity.peer` hands on to Trainer, or that concern all alike.
_SHARED = frozenset(
    (
        *("global_batch_size", "grad_accumulation", "epochs", "max_steps", "lr", "lr_schedule"),
        *("lr_cycles", "cooldown_ratio"),
        *("warmup_ratio", "weight_decay", "decay_all", "adam_beta1", "adam_beta2", "adam_eps"),
        *("clip_grad_norm", "max_train_samples", "precision", "early_stopping_patience"),
        "save_best_model",
        # Without what they belong to these do nothing.
        *("min_crop_scale", "randaugment_num_ops", "randaugment_magnitude"),
    )
)
WORKER = ("-m", "vit_colossal.parity.worker")


@dataclass(frozen=True)
class Tolerance:
    """What a run of one precision may be off from the plain loop.

    Attributes:
        loss, grad_norm, weights: relative; see ``Difference``.
        correct: images.
        spread: the plain loop's own largest differences, from which the others follow.
    """

    loss: float
    grad_norm: float
    weights: float
    correct: int
    spread: dict[str, float]


@dataclass
class Row:
    """One line of the report."""

    name: str
    precision: str
    clip: float
    processes: int
    difference: Difference | None = None
    tolerance: Tolerance | None = None
    accuracy: str = ""
    problems: list[str] = field(default_factory=list)
    trace: Trace | None = None
    reference: Trace | None = None

    @property
    def passed(self) -> bool:
        return self.difference is not None and not self.problems


def run_parity(config: ParityConfig) -> tuple[list[Row], Path]:
    """Run all subjects and compare them.

    Args:
        config: the job, and which layouts on how many processes.

    Returns:
        The rows and the folder with ``parity.json``, ``parity.png``, ``parity.md`` and the traces.
    """
    processes = config.nproc or 2
    folder = config.output_dir or Path("runs") / time.strftime("parity-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    everyone = Topology(world_size=processes, local_world_size=processes)
    choose_device(config.job(), everyone)  # one CUDA device for each, where they are asked for
    cases = make_cases(config, processes, folder)
    return compare_cases(config, cases, folder), folder


def compare_cases(
    config: ParityConfig, cases: list[Case], folder: Path, worker: Sequence[str] = WORKER
) -> list[Row]:
    """Run the cases in processes of their own and judge each against the plain loop.

    Args:
        config: the job.
        cases: what to run.
        folder: for the files that pass between this process and the workers.
        worker: the python arguments that run a file of cases in each process.
    """
    torch.set_num_threads(1)  # like every rank, so that products are blocked alike
    failed = _run_cases(cases, folder, worker)
    references = _References(config)
    return [_judge(case, references, failed.get(case.trace_dir)) for case in cases]


def make_cases(config: ParityConfig, processes: int, folder: Path) -> list[Case]:
    """Every layout, and Trainer, in the asked precision and clipping."""
    plan, _ = plan_run(config.job(plugin=AUTOCAST, pp=1, tp=1), Topology())
    fitting = fitting_layouts(processes, plan.spec)
    layouts = select(fitting, config.layouts, config.precision)
    clips = [config.clip_grad_norm]
    if config.clip_too and config.clip_grad_norm == 0:
        clips.append(config.clip_too)
    subjects: list[tuple[str | None, Layout]] = [(None, layout) for layout in layouts]
    if config.peers:
        _refuse_what_peers_lack(config)
        if plan.config.drop_path:
            problem = f"Trainer draws the model's drop path ({plan.config.drop_path:g}) otherwise"
            raise ConfigError([f"{problem}: add --drop-path 0 or --no-peers"])
        flags = {"plugin": AUTOCAST, "precision": "fp32"}
        for count in sorted({1, processes}):
            for optim in TRAINER_OPTIMS:
                subjects.append((optim, Layout(f"transformers.Trainer {optim}", flags, count)))
    cases: list[Case] = []
    for trainer_optim, layout in subjects:
        for clip in clips if layout.precision == "fp32" else clips[:1]:
            job = config.job(**layout.flags, clip_grad_norm=clip)
            clipped = f"-clip{clip:g}" if clip else ""
            name = f"{layout.name}-{layout.precision}{clipped}-{layout.processes}p"
            trace = folder / "traces" / re.sub(r"[^\w.+-]+", "-", name)
            cases.append(Case(layout.name, trainer_optim, layout.processes, job, trace))
    return cases


def _refuse_what_peers_lack(config: ParityConfig) -> None:
    fields = TrainConfig.model_fields
    found = [
        f"--{name.replace('_', '-')}"
        for name in RECIPE
        if name not in _SHARED
        and getattr(config, name) not in (fields[name].default, AS_PEERS.get(name))
    ]
    if found:
        flags = ", ".join(found)
        raise ConfigError([f"{flags}: Trainer is compared without it: add --no-peers"])


def _run_cases(cases: list[Case], folder: Path, worker: Sequence[str]) -> dict[Path, int]:
    """One launch per number of processes; a case that breaks it is left out of the next.

    Returns:
        The exit codes of the launches that ended in a case, by the case's folder.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    failed = {}
    for processes in sorted({case.processes for case in cases}):
        todo = [case for case in cases if case.processes == processes]
        while todo:
            logger.info("running %d cases on %d processes", len(todo), processes)
            file = folder / f"cases-{processes}.json"
            file.write_text(json.dumps([case.to_json() for case in todo]), encoding="utf-8")
            code = launch(Program((*worker, str(file))), processes)
            left = [case for case in todo if not (case.trace_dir / "trace.json").exists()]
            failed.update({case.trace_dir: code for case in left[:1]})
            todo = left[1:]
    return failed


class _References:
    """Plain loops, one for each precision, clipping and grouping that is asked for."""

    def __init__(self, config: ParityConfig) -> None:
        self.config = config
        self._traces: dict[tuple[Any, ...], Trace] = {}
        self._tolerances: dict[tuple[Any, ...], Tolerance] = {}
        self._data: RunData | None = None

    def trace(self, job: TrainConfig, grouping: Grouping) -> Trace:
        """The plain run of a job; weights in fp32, or in bf16 with fp32 masters, as it trains."""
        autocast = facts_of(job.plugin).autocasts
        key = (job.precision, job.clip_grad_norm, autocast, grouping)
        if key not in self._traces:
            plain = self.config.job(
                plugin=AUTOCAST if autocast else MASTERS,
                precision=job.precision,
                clip_grad_norm=job.clip_grad_norm,
                pp=1,
                tp=1,
                zero=0,
            )
            plan, data = plan_run(plain, Topology())
            self._traces[key] = train_plain(plan, data, _total_steps(plan, data), grouping)
        return self._traces[key]

    def tolerance(self, job: TrainConfig) -> Tolerance:
        """The spread of the plain loop under reordered reductions, times the factor."""
        key = (job.precision, job.clip_grad_norm, facts_of(job.plugin).autocasts)
        if key not in self._tolerances:
            base = self.trace(job, Grouping())
            batch = self.config.job().global_batch_size or 1
            reordered = [g for g in REORDERED if batch % g.parts == 0]
            off = [compare(self.trace(job, grouping), base) for grouping in reordered]
            spread = {
                name: max(abs(getattr(difference, name) or 0.0) for difference in off)
                for name in ("loss", "grad_norm", "weights", "weights_in_lr", "correct")
            }
            self._tolerances[key] = Tolerance(
                loss=max(TOLERANCE_FACTOR * spread["loss"], FLOOR),
                grad_norm=max(TOLERANCE_FACTOR * spread["grad_norm"], FLOOR),
                weights=max(TOLERANCE_FACTOR * spread["weights"], FLOOR),
                correct=max(1, round(TOLERANCE_FACTOR * spread["correct"])),
                spread=spread,
            )
        return self._tolerances[key]


def _judge(case: Case, references: _References, exit_code: int | None) -> Row:
    """Compare one trace with the plain loop that mirrors its layout."""
    job = case.config
    row = Row(case.name, job.precision or "fp32", job.clip_grad_norm, case.processes)
    if exit_code is not None:
        row.problems.append(f"the run failed with exit code {exit_code}: see its messages above")
        return row
    trace = Trace.load(case.trace_dir)
    plan, _ = plan_run(job, Topology(world_size=case.processes))
    reference = references.trace(job, Grouping.of(plan))
    row.tolerance = references.tolerance(job)
    row.difference = compare(trace, reference)
    row.trace, row.reference = trace, reference
    row.accuracy = f"{trace.correct}/{trace.total}"
    row.problems += _problems(trace, reference, row.difference, row.tolerance)
    return row


def _total_steps(plan: RunPlan, data: RunData) -> int:
    return total_steps(plan.config, steps_per_epoch(plan.config, len(data.train)))


def _problems(
    trace: Trace, reference: Trace, difference: Difference, tolerance: Tolerance
) -> list[str]:
    problems = []
    step = first_beyond(trace.losses, reference.losses, tolerance.loss)
    if step is not None:
        problems.append(
            f"loss differs from step {step}: {trace.losses[step - 1]:.9g} against "
            f"{reference.losses[step - 1]:.9g}"
        )
    if difference.grad_norm is not None and difference.grad_norm > tolerance.grad_norm:
        step = first_beyond(trace.grad_norms, reference.grad_norms, tolerance.grad_norm)
        problems.append(f"gradient norm differs from step {step}: {difference.grad_norm:.1e}")
    if difference.lr > 1e-12:
        problems.append(f"learning rate differs by {difference.lr:.1e}")
    if difference.weights > tolerance.weights:
        problems.append(f"weights differ by {difference.weights:.1e} (L2, relative)")
    if abs(difference.correct) > tolerance.correct:
        problems.append(f"accuracy differs by {difference.correct:+d} images")
    return problems
