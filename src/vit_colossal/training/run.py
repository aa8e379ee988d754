"""One run from configuration to result: validate, join the group, train, leave."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from vit_colossal.checkpoints.sharing import share
from vit_colossal.config.plugins import AUTO
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.data.prepare import RunData, decode_data, find_data
from vit_colossal.data.sources.source import ImageSource
from vit_colossal.data.streams import StreamedSource
from vit_colossal.errors import ConfigError
from vit_colossal.model.head import match_head
from vit_colossal.model.weights_fit import check_weights
from vit_colossal.plan.default_subject import ways_on
from vit_colossal.plan.plan import (
    Device,
    RunPlan,
    check_data,
    draft,
    fit_recipe,
    make_plan,
)
from vit_colossal.plan.problems import check_processes
from vit_colossal.rundir.finished import Subject
from vit_colossal.rundir.in_common import (
    checkpoint_facts,
    data_facts,
    model_facts,
    plan_facts,
    version_facts,
)
from vit_colossal.rundir.references import find_reference
from vit_colossal.rundir.regression import require_match
from vit_colossal.rundir.trackers import tracker_problems
from vit_colossal.runtime.agreement import Facts, together
from vit_colossal.runtime.compiler import cache_problems
from vit_colossal.runtime.group import Topology, choose_device, hosts_of_ranks, in_group
from vit_colossal.runtime.pins import require_colossalai
from vit_colossal.training.enough_memory import check_memory, explained
from vit_colossal.training.folders import lost_problems, path_problems
from vit_colossal.training.resuming import (
    as_chosen_there,
    continued,
    find_origin,
    own_last_batch,
    own_spec,
    where_data_lie,
)
from vit_colossal.training.weak import weakness

if TYPE_CHECKING:
    from torch.distributed import Store

    from vit_colossal.training.fit import TrainResult

logger = logging.getLogger("vit_colossal")


def plan_run(
    config: TrainConfig,
    topology: Topology,
    found: Sequence[str] = (),
    tell: Callable[[Sequence[str]], None] = lambda notes: None,
) -> tuple[RunPlan, RunData]:
    """Everything that can go wrong before a process group exists.

    Args:
        config: the run.
        topology: this process's place.
        found: problems that are known already, to be shown with those found here.
        tell: gets what the plan has to say before images are decoded, which may take long.

    Raises:
        ConfigError: all problems found.
    """
    require_colossalai(found)
    found, origin, spec = [*found], None, None
    notes: list[str] = []
    try:
        origin = find_origin(config, report=topology.tells)
        if origin is not None:
            config = as_chosen_there(own_last_batch(config, origin), origin)
            config, notes = where_data_lie(config, origin)
            spec = own_spec(config, origin)
        else:
            found += lost_problems(config)
    except ConfigError as error:
        found += error.problems
    found += [*_reference_problems(config), *path_problems(config), *tracker_problems(config)]
    found += cache_problems() if config.compile else []
    try:
        device = choose_device(config, topology)
    except ConfigError as error:
        found, device = [*found, *error.problems], Device("cuda")
    drafted = make_plan(draft(config, device), topology.world_size, device, found, spec)
    keep_test = origin is None or origin.data is None or origin.data.test_is_kept
    with ways_on(config):
        if origin is None:
            check_weights(drafted.spec)
        images = find_data(drafted, keep_test=keep_test, progress=topology.rank == 0)
    held_out = images.source.held_out
    plan = _fitted(drafted, config, images.source, held_out, notes)
    check_memory(plan, len(images.source.labels), topology)
    if not config.skip_bad_images:  # else fewer may be left, and another recipe fit
        tell(plan.notes)
    data = decode_data(images)
    if data.train.bad or data.evaluation.bad:
        plan = _fitted(drafted, config, data, held_out, notes)
    _check_subject(plan, data)
    if origin is not None:
        return continued(plan, data, origin), data
    if note := match_head(plan.spec, data.labels).note:
        plan = replace(plan, notes=(*plan.notes, note))
    return plan, data


def _fitted(
    plan: RunPlan,
    asked: TrainConfig,
    data: ImageSource | StreamedSource | RunData,
    held_out: float,
    notes: Sequence[str],
) -> RunPlan:
    """The plan with the recipe that fits the images, and with all there is to say about it."""
    images = len(data.train)
    plan = fit_recipe(plan, asked, images, len(data.labels), held_out)
    check_data(plan, images, len(data.evaluation))
    weak = weakness(plan, data.name, images)
    return replace(plan, notes=(*plan.notes, *notes, *([weak] if weak else [])))


def plan_aloud(
    config: TrainConfig, topology: Topology, found: Sequence[str] = ()
) -> tuple[RunPlan, RunData]:
    """As `plan_run`; what the plan has to say is logged, before images are decoded."""
    tell = _teller(topology)
    plan, data = plan_run(config, topology, found, tell)
    tell((*plan.notes, *data.notes))
    return plan, data


def _teller(topology: Topology) -> Callable[[Sequence[str]], None]:
    """What logs each line of a plan once, in the process that tells it."""
    told: set[str] = set()

    def tell(notes: Sequence[str]) -> None:
        for note in notes if topology.tells else ():
            if note not in told:
                logger.info("%s", note)
        told.update(notes)

    return tell


def train(config: TrainConfig, topology: Topology | None = None) -> TrainResult:
    """Fine-tune as configured, on this process and its peers.

    Args:
        config: the run.
        topology: this process's place; read from the environment when not given.

    Raises:
        ConfigError: the run cannot be started as configured.
    """
    if config.dry_run:
        raise ConfigError(["--dry-run does not train: call training.run.rehearse instead"])
    check_processes(config, "train")
    topology = topology or Topology.from_environment()
    (plan, data), store = _agreed(config, topology)
    with in_group(plan.device.kind, topology, store=store) as device:
        from vit_colossal.training.fit import fit

        with explained(plan, len(data.labels)):
            return fit(plan, data, device)


def _agreed(
    config: TrainConfig, topology: Topology
) -> tuple[tuple[RunPlan, RunData], Store | None]:
    """The run as all ranks have planned it, told, and the store in which they meet."""
    tell, store = _teller(topology), None
    if config.plugin == AUTO:
        from vit_colossal.training.automatic import choose_together

        choice, store = choose_together(config, topology)
        config = config.replace(**choice.settings)
        tell([choice.why])

    def shared(store: Store) -> Callable[[], tuple[RunPlan, RunData]] | None:
        first = topology.local_rank == 0
        now = share(config, store, topology.rank, topology.world_size, first_on_host=first)
        return None if now is None else partial(plan_run, now, topology, tell=tell)

    def facts(planned: tuple[RunPlan, RunData]) -> Facts:
        plan, data = planned
        splits = {"training": data.train, "evaluation": data.evaluation}
        return {
            **plan_facts(plan),
            **version_facts(),
            **checkpoint_facts(plan.config, plan.checkpoint),
            **model_facts(plan, weights=topology.local_rank == 0),
            **data_facts(data.fingerprint, splits, data.preprocessing),
        }

    decide = partial(plan_run, config, topology, tell=tell)
    (plan, data), store = together(topology, decide, facts, shared, store=store)
    tell((*plan.notes, *data.notes))
    return (plan, data), store


def rehearse(config: TrainConfig, topology: Topology | None = None) -> None:
    """Do all that comes before the first step, log the plan, and leave no run behind.

    Args:
        config: the run.
        topology: this process's place; read from the environment when not given.

    Raises:
        ConfigError: the run could not be started as configured.
    """
    topology = topology or Topology.from_environment()
    (plan, data), store = _agreed(config, topology)
    is_lead = topology.rank == plan.dims.lead_rank
    with in_group(plan.device.kind, topology, store=store) as device:
        _show_plan(plan, data, device)
    if is_lead:
        where = config.output_dir or "runs/"
        logger.info("dry run: all of this is possible; the run would be written to %s", where)


def _show_plan(plan: RunPlan, data: RunData, device: torch.device) -> None:
    from vit_colossal.strategies.memory_use import state_memory
    from vit_colossal.training.announce import announce
    from vit_colossal.training.job import build_job
    from vit_colossal.training.placement import placement

    job = build_job(plan, data, device)
    memory, hosts = state_memory(job.engine), hosts_of_ranks()
    if job.engine.is_lead:
        announce(job, memory)
        for line in placement(plan.dims, hosts):
            logger.info(line)


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
