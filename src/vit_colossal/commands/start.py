"""What ``train`` and ``eval`` share: here, or in N processes that are started first."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

from vit_colossal.commands.run import run_command
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.runtime import activate
from vit_colossal.runtime.agreement import together
from vit_colossal.runtime.group import PLAN_IS_TOLD, Topology
from vit_colossal.runtime.interpreter import without_collecting
from vit_colossal.runtime.spawn import can_fork, launch

#: What plans a run and raises ConfigError for its problems: configuration, place, problems so far.
Planner = Callable[[TrainConfig, Topology, list[str]], object]


def spawn(
    name: str,
    config: TrainConfig,
    flags: Sequence[str],
    prog: str,
    problems: list[str],
    plan: Planner,
) -> int:
    """Validate here, before anything starts; then run the same command in N processes.

    Args:
        name: of the command.
        config: its configuration, as far as it can be read.
        flags: the command line.
        prog: what the command is called in messages.
        problems: what could not be read.
        plan: finds all other problems.

    Returns:
        The exit code of the processes.

    Raises:
        ConfigError: all problems.
    """
    topology = _topology(config, problems)
    if config.nproc is not None:
        plan(config, topology, problems)
    else:  # one of several ranks, each with a command line of its own
        together(topology, lambda: plan(config, topology, problems), lambda _: {})
    if can_fork():
        _import_all(config.plugin)
    command = partial(_run_planned, name, _without_nproc(flags), prog)
    return launch(command, topology.world_size)


def _run_planned(name: str, flags: Sequence[str], prog: str) -> int:
    """The command, in one of the processes."""
    os.environ[PLAN_IS_TOLD] = str(True)
    return run_command(name, flags, prog)


@without_collecting()
def _import_all(plugin: str) -> None:
    """Once for all processes: forked ones have it, and share the memory that it takes."""
    activate("cpu")
    import_module("vit_colossal.training.fit")
    from vit_colossal.strategies.choice import strategy_of

    strategy_of(plugin)


def _topology(config: TrainConfig, problems: list[str]) -> Topology:
    """This process's place, or that of the first of N processes that are yet to be started."""
    if "RANK" in os.environ:
        if config.nproc is not None:
            problems.append("--nproc cannot be used under torchrun or colossalai run: drop it")
        return Topology.from_environment()
    return Topology(world_size=config.nproc or 1, local_world_size=config.nproc or 1)


def _without_nproc(flags: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for flag in flags:
        if skip:
            skip = False
        elif flag == "--nproc":
            skip = True
        elif not flag.startswith("--nproc="):
            kept.append(flag)
    return kept
