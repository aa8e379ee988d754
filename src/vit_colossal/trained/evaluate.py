"""Evaluate a trained model on any data set and split, on any number of processes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vit_colossal.config.eval_config import EvalConfig
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.plan.model_spec import ModelSpec
from vit_colossal.plan.plan import Device, RunPlan, make_plan
from vit_colossal.plan.problems import check_processes
from vit_colossal.rundir.in_common import data_facts, model_facts, plan_facts, version_facts
from vit_colossal.runtime.agreement import Fact, Facts, together
from vit_colossal.runtime.group import Topology, choose_device, in_group
from vit_colossal.runtime.pins import require_colossalai
from vit_colossal.trained.saved import SavedModel, load_model, locate
from vit_colossal.trained.split import EvalSplit, open_split

if TYPE_CHECKING:
    import torch

    from vit_colossal.evaluation.exact import Evaluation

logger = logging.getLogger("vit_colossal")


@dataclass(frozen=True)
class EvalPlan:
    """What is evaluated, on what, and how the work is divided."""

    run: RunPlan
    saved: SavedModel
    split: EvalSplit


def plan_evaluation(config: TrainConfig, topology: Topology, found: Sequence[str] = ()) -> EvalPlan:
    """Everything that can go wrong before a process group exists.

    Args:
        config: ``model`` names a run, a model or a checkpoint.
        topology: this process's place.
        found: problems that are known already, to be shown with those found here.

    Raises:
        ConfigError: all problems found.
    """
    require_colossalai(found)
    problems = list(found)
    name, checkpoint = config.model, None
    if isinstance(config, EvalConfig):
        checkpoint = config.checkpoint
        if config.run is not None and config.model is not None:
            problems.append(f"{config.run} and --model {config.model} exclude each other: give one")
        name = config.run or config.model
    if config.check_reference is not None:
        problems.append("--check-reference judges a training run: drop it, or use check")
    if config.dry_run:
        problems.append("--dry-run rehearses a training run: drop it")
    if name is None:
        problems.append("no model: name a run or model directory (vit-colossal eval RUN)")
        raise ConfigError(problems)
    try:
        saved = locate(name, checkpoint)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    plan = _plan(config, saved.spec, topology, problems)
    return EvalPlan(plan, saved, open_split(config, saved, progress=topology.rank == 0))


def _plan(config: TrainConfig, spec: ModelSpec, topology: Topology, problems: list[str]) -> RunPlan:
    """The layout of the work."""
    try:
        device = choose_device(config, topology)
    except ConfigError as error:
        problems, device = [*problems, *error.problems], Device("cuda")
    named = {"model": spec.name, "model_overrides": spec.overrides, "image_size": None}
    # No default data set: its name would be announced, and it is not what is read.
    settings = config.replace(**named, dataset=config.dataset or "as trained")
    return make_plan(settings, topology.world_size, device, problems, spec)


def evaluate(config: TrainConfig, topology: Topology | None = None) -> Evaluation:
    """Evaluate a trained model on a whole split, on this process and its peers.

    Args:
        config: ``model`` names a run directory, a model directory or a checkpoint; ``dataset`` and
            ``eval_split`` the images, by default those that the run itself was evaluated on.
        topology: this process's place; read from the environment when not given.

    Returns:
        Counts, loss and confusion matrix; labels in the model's order.

    Raises:
        ConfigError: the model or the data cannot be used, or their labels differ.
    """
    check_processes(config, "evaluate")
    topology = topology or Topology.from_environment()
    plan, store = together(
        topology,
        lambda: plan_evaluation(config, topology),
        lambda plan: _facts(plan, weights=topology.local_rank == 0),
    )
    if topology.rank == plan.run.dims.lead_rank:
        split = plan.split
        count = len(split.samples)
        logger.info("%s on %s, split %s: %d images", plan.saved, split.dataset, split.name, count)
        for note in split.notes:
            logger.info(note)
    with in_group(plan.run.device.kind, topology, store=store) as device:
        return _evaluate(plan, device)


def _facts(plan: EvalPlan, *, weights: bool) -> Facts:
    """What all ranks have to have in common."""
    run, saved, split = plan.run, plan.saved, plan.split
    facts = {**plan_facts(run), **version_facts()}
    facts |= data_facts(split.fingerprint, {split.name: split.samples}, split.preprocessing)
    if saved.checkpoint is not None:
        return facts | {"checkpoint": Fact(f"step {saved.step}, manifest {saved.manifest[:12]}")}
    return facts | model_facts(run, weights=weights)


def _evaluate(plan: EvalPlan, device: torch.device) -> Evaluation:
    from vit_colossal.data.batches import eval_batches
    from vit_colossal.data.loaders import Shard
    from vit_colossal.evaluation.exact import evaluate as count
    from vit_colossal.strategies.engine import build_engine

    run, split = plan.run, plan.split
    engine = build_engine(run, load_model(plan.saved), split.preprocessing, 1, device)
    shard = Shard(engine.coordinate.dp, run.dims.dp)
    batches = eval_batches(run, split.samples, shard, pixels=engine.first_stage)
    return count(engine, batches.batches(), len(split.samples), plan.saved.labels)
