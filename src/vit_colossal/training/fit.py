"""Train a job in a run directory, from the plan's checkpoint where it has one."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from vit_colossal.checkpoints.resume import identity, layout
from vit_colossal.checkpoints.writer import Checkpointer
from vit_colossal.data.prepare import RunData
from vit_colossal.errors import ConfigError
from vit_colossal.evaluation.exact import Evaluation
from vit_colossal.evaluation.predictions import clear
from vit_colossal.evaluation.predictions import save as save_predictions
from vit_colossal.plan.plan import RunPlan
from vit_colossal.rundir.metrics import NullReporter, Reporter, RunReporter
from vit_colossal.rundir.record import describe_run, keep_base
from vit_colossal.rundir.regression import Verdict, check_run
from vit_colossal.rundir.seal import seal
from vit_colossal.rundir.trackers import open_trackers
from vit_colossal.runtime.group import limit_waiting
from vit_colossal.strategies.memory_use import StateMemory, state_memory
from vit_colossal.trained.card import write_card
from vit_colossal.training.announce import announce, kernels
from vit_colossal.training.claim import claimed, shared_run_dir
from vit_colossal.training.closing import closing_lines
from vit_colossal.training.features import keep_features
from vit_colossal.training.job import Job, build_job
from vit_colossal.training.loop import Loop
from vit_colossal.training.stop import StopRequest

logger = logging.getLogger("vit_colossal")


@dataclass(frozen=True)
class TrainResult:
    """What a run produced.

    ``model_dir`` is a plain Hugging Face directory; ``verdict`` what ``check_reference`` found.
    A run that signal ``stopped_by`` ended has saved a checkpoint and no model.
    """

    evaluation: Evaluation | None
    steps: int
    run_dir: Path
    model_dir: Path | None
    verdict: Verdict | None = None
    stopped_by: int = 0


def fit(plan: RunPlan, data: RunData, device: torch.device) -> TrainResult:
    """Train, evaluate after each epoch, save, and be judged where that was asked for.

    Args:
        plan: the validated run.
        data: its images.
        device: where this rank computes.

    Raises:
        ConfigError: another run writes to the run directory, or the reference does not fit.
        TrainingFailed: the loss was not finite for too many steps, or at the end.
        CheckpointError: a checkpoint could not be written.
    """
    job = build_job(plan, data, device)
    run_dir = shared_run_dir(plan)
    with claimed(run_dir, job):
        if job.engine.is_lead:
            keep_base(run_dir, job.model.config, job.processor)
            describe_run(run_dir, plan, data)
            logger.info("run directory %s", run_dir)
        dist.barrier()
        memory = state_memory(job.engine)
        with _reporter(job, run_dir) as reporter:
            loop = Loop(job, reporter, checkpointer(job, run_dir))
            loop.resume()
            if job.engine.is_lead:
                announce(job, memory)
                _start_event(job, reporter, loop.step, memory)
            keep_features(job)
            limit_waiting(plan.config.timeout)
            with StopRequest().installed() as stop, loop.watchdog.watching(job.engine.model):
                result = _finish(loop, loop.run(stop), run_dir)
        return result if result.stopped_by else _judged(result, loop)


def checkpointer(job: Job, run_dir: Path) -> Checkpointer:
    """The checkpoints of a job's run directory."""
    plan = job.plan
    return Checkpointer(job.engine, run_dir, identity(plan, job.data), layout(plan))


def _reporter(job: Job, run_dir: Path) -> Reporter:
    config = job.plan.config
    if not job.engine.is_lead:
        return NullReporter()
    clear(run_dir)
    trackers = open_trackers(run_dir, config, resumed=job.plan.checkpoint is not None)
    return RunReporter(run_dir, tensorboard=config.tensorboard, trackers=trackers)


def _finish(loop: Loop, stopped_by: int, run_dir: Path) -> TrainResult:
    """Save what a run leaves beside its checkpoints."""
    job, step = loop.job, loop.step
    epoch = step / job.steps_per_epoch
    if stopped_by:
        loop.reporter.event("stop", step, epoch, signal=stopped_by)
        return TrainResult(loop.evaluation, step, run_dir, None, stopped_by=stopped_by)
    evaluation = loop.evaluation or job.evaluate(predictions=True)
    loop.require_finite(evaluation)
    with loop.watchdog.patient(4 * job.num_parameters):
        if evaluation.predictions is not None:
            images, originals = job.data.evaluation.images, job.data.originals
            save_predictions(run_dir, evaluation.predictions, images, originals)
        model_dir = job.save(run_dir)
        if job.engine.is_lead:
            seal(run_dir)
    loop.reporter.event("end", step, epoch, accuracy=evaluation.accuracy)
    return TrainResult(evaluation, step, run_dir, model_dir)


def _start_event(job: Job, reporter: Reporter, step: int, memory: StateMemory) -> None:
    """What a report shows of a run that has not ended."""
    attention, optimizer = kernels(job)
    reporter.event(
        "start",
        step,
        step / job.steps_per_epoch,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        parameters=job.num_parameters,
        total_steps=job.total_steps,
        epochs=job.epochs,
        layout=f"{job.plan.config.plugin}, {job.plan.dims}",
        global_batch=job.plan.batches.global_batch,
        state_memory_mib=round(memory.total / 2**20, 1),
        attention=attention,
        optimizer=optimizer,
    )


def _judged(result: TrainResult, loop: Loop) -> TrainResult:
    """The result with its verdict, and what stands beside the model."""
    result = replace(result, verdict=_verdict(result.run_dir, loop.job))
    if loop.job.engine.is_lead and result.evaluation is not None and result.model_dir is not None:
        write_card(result.run_dir)
        for line in closing_lines(loop, result.evaluation, result.run_dir, result.model_dir):
            logger.info("%s", line)
    return result


def _verdict(run_dir: Path, job: Job) -> Verdict | None:
    """The lead rank's verdict, on every rank, so that all end with the same exit code."""
    config = job.plan.config
    found: list[Any] = [None, []]
    if config.check_reference is None:
        return None
    if job.engine.is_lead:
        try:
            found[0] = check_run(run_dir, config.check_reference, config.references)
            logger.info("%s", found[0])
        except ConfigError as error:
            found[1] = error.problems
    dist.broadcast_object_list(found, src=job.plan.dims.lead_rank)
    verdict, problems = found
    if problems:
        raise ConfigError(problems)
    return verdict
