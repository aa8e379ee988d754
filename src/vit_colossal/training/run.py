"""One run from configuration to result: validate, join the group, train, leave."""

from __future__ import annotations

import itertools
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.distributed as dist

from vit_colossal.checkpoints.resume import wants_resume, with_checkpoint
from vit_colossal.config.reading import TrainConfig
from vit_colossal.data.prepare import RunData, prepare_data
from vit_colossal.data.sources import missing_path
from vit_colossal.errors import ConfigError
from vit_colossal.plan import run_folder
from vit_colossal.plan.plan import Device, RunPlan, check_data, fit_batch, make_plan
from vit_colossal.plan.weights_fit import check_weights
from vit_colossal.rundir.finished import Subject
from vit_colossal.rundir.lock import held_by, in_use, locked
from vit_colossal.rundir.record import describe_run
from vit_colossal.rundir.references import find_reference
from vit_colossal.rundir.regression import Verdict, check_run, require_match
from vit_colossal.rundir.trackers import missing_clients
from vit_colossal.runtime.group import Topology, choose_device, in_group
from vit_colossal.runtime.pins import require_colossalai
from vit_colossal.trained.card import write_card

if TYPE_CHECKING:
    from vit_colossal.training.fit import TrainResult
    from vit_colossal.training.job import Job

logger = logging.getLogger("vit_colossal")


def plan_run(
    config: TrainConfig, topology: Topology, found: Sequence[str] = ()
) -> tuple[RunPlan, RunData]:
    """Everything that can go wrong before a process group exists.

    Args:
        config: the run.
        topology: this process's place.
        found: problems that are known already, to be shown with those found here.

    Raises:
        ConfigError: all problems found.
    """
    require_colossalai(found)
    found = [*found, *_reference_problems(config), *_path_problems(config)]
    found += missing_clients(config)
    try:
        device = choose_device(config, topology)
    except ConfigError as error:
        found, device = [*found, *error.problems], Device("cuda")
    plan = make_plan(config, topology.world_size, device, found)
    check_weights(plan.spec)
    data = prepare_data(plan, progress=topology.rank == 0)
    plan = fit_batch(plan, config, len(data.train))
    check_data(plan, len(data.train), len(data.evaluation))
    _check_subject(plan, data)
    return with_checkpoint(plan, data, report=topology.rank == 0), data


def train(config: TrainConfig, topology: Topology | None = None) -> TrainResult:
    """Fine-tune as configured, on this process and its peers.

    Args:
        config: the run.
        topology: this process's place; read from the environment when not given.

    Raises:
        ConfigError: the run cannot be started as configured.
    """
    if config.dry_run:
        raise ConfigError(["--dry-run does not train: call run.rehearse instead"])
    topology = topology or Topology.from_environment()
    plan, data = plan_run(config, topology)
    if topology.rank == plan.dims.lead_rank:
        for note in (*plan.notes, *data.notes):
            logger.info(note)
    return in_group(plan.device.kind, topology, lambda device: _train(plan, data, device))


def rehearse(config: TrainConfig, topology: Topology | None = None) -> None:
    """Do all that comes before the first step, log the plan, and leave no run behind.

    Args:
        config: the run.
        topology: this process's place; read from the environment when not given.

    Raises:
        ConfigError: the run could not be started as configured.
    """
    topology = topology or Topology.from_environment()
    plan, data = plan_run(config, topology)
    is_lead = topology.rank == plan.dims.lead_rank

    def show_plan(device: torch.device) -> None:
        from vit_colossal.strategies.memory_use import state_memory
        from vit_colossal.training.announce import announce
        from vit_colossal.training.job import build_job

        job = build_job(plan, data, device)
        memory = state_memory(job.engine)
        if is_lead:
            announce(job, memory)

    if is_lead:
        for note in (*plan.notes, *data.notes):
            logger.info(note)
    in_group(plan.device.kind, topology, show_plan)
    if is_lead:
        where = config.output_dir or "runs/"
        logger.info("dry run: all of this is possible; the run would be written to %s", where)


def _train(plan: RunPlan, data: RunData, device: torch.device) -> TrainResult:
    from vit_colossal.training.job import build_job

    return _fit(build_job(plan, data, device))


def _fit(job: Job) -> TrainResult:
    run_dir = _shared_run_dir(job.plan)
    with _claimed(run_dir, job):
        if job.engine.is_lead:
            describe_run(run_dir, job.plan, job.data)
            logger.info("run directory %s", run_dir)
        dist.barrier()
        return _fit_in(run_dir, job)


def _fit_in(run_dir: Path, job: Job) -> TrainResult:
    from vit_colossal.training.fit import fit

    result = fit(job, run_dir)
    if result.stopped_by:
        return result
    result = replace(result, verdict=_judge(run_dir, job))
    if job.engine.is_lead:
        write_card(run_dir)
        logger.info("%s", result.evaluation)
        logger.info("model saved to %s", result.model_dir)
    return result


@contextmanager
def _claimed(run_dir: Path, job: Job) -> Iterator[None]:
    """The lead rank keeps other runs out; what it could not do is said by every rank."""
    problems: list[list[str]] = [[]]
    with ExitStack() as stack:
        if job.engine.is_lead:
            try:
                stack.enter_context(locked(run_dir))
            except ConfigError as error:
                problems[0] = error.problems
        dist.broadcast_object_list(problems, src=job.plan.dims.lead_rank)
        if problems[0]:
            raise ConfigError(problems[0])
        yield


def _judge(run_dir: Path, job: Job) -> Verdict | None:
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


def _reference_problems(config: TrainConfig) -> list[str]:
    """An unknown name, before anything is trained for it."""
    if config.check_reference is None:
        return []
    try:
        find_reference(config.check_reference, config.references, "--check-reference")
    except ConfigError as error:
        return error.problems
    return []


def _check_subject(plan: RunPlan, data: RunData) -> None:
    """Raise ConfigError when the run could not be compared with its reference afterwards."""
    config = plan.config
    if config.check_reference is None:
        return
    reference = find_reference(config.check_reference, config.references, "--check-reference")
    subject = Subject(
        model=config.model or "",
        model_overrides=dict(config.model_overrides),
        dataset=data.name,
        train_split=config.train_split or "train",
        split=data.eval_split,
        labels=data.labels,
        fingerprint=data.fingerprint,
        eval_images=len(data.evaluation),
    )
    require_match(reference, subject)


def _path_problems(config: TrainConfig) -> list[str]:
    """Folders and files that are not there or cannot be used."""
    problems = []
    if config.dataset is not None and missing_path(config.dataset):
        problems.append(f"--dataset {config.dataset!r}: no such file or folder")
    path = config.output_dir
    if path is None:
        return problems
    nearest = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not nearest.is_dir():
        problems.append(f"--output-dir {path}: {nearest} is a file: name a folder")
    elif (reason := _unwritable(nearest)) is not None:
        problems.append(
            f"--output-dir {path}: {nearest} cannot be written to ({reason}): name another folder"
        )
    elif (holder := held_by(path)) is not None:
        problems.append(in_use(path, holder))
    elif (path / run_folder.CONFIG).exists() and not (config.overwrite or wants_resume(config)):
        problems.append(
            f"--output-dir {path} holds a run: add --resume auto or --overwrite, or name another"
        )
    return problems


def _unwritable(folder: Path) -> str | None:
    """Why nothing can be made in a folder: tried, as the administrator may write everywhere."""
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".vit-colossal-", dir=folder))
    except OSError as error:
        return error.strerror or str(error)
    return None


def _shared_run_dir(plan: RunPlan) -> Path:
    """The run directory; rank 0 names it for all, by the time.

    Under torchrun by that at which it started, so that workers it starts again find their run.
    """
    config = plan.config
    if config.output_dir is not None:
        return config.output_dir
    name = re.sub(r"[^A-Za-z0-9.]+", "-", Path(config.dataset or "run").name)
    elastic = "TORCHELASTIC_RUN_ID" in os.environ
    begun = psutil.Process(os.getppid()).create_time() if elastic else time.time()
    stamp = f"{name}-{config.plugin}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(begun))}"
    path = Path("runs") / stamp
    # Two runs of one process, as in a notebook, may start in the same second.
    others = (Path("runs") / f"{stamp}-{number}" for number in itertools.count(2))
    while not elastic and path.exists():
        path = next(others)
    shared = [path]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]
