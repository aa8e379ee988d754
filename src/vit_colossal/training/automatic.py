"""``--plugin auto``: the layout that is predicted to be the fastest, before the run is planned.

Where the processes are yet to be started, the one that starts them chooses. Where they are there
already, rank 0 chooses for all: what it has to have measured, they measure in a group that ends
before training begins.
"""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from vit_colossal.calibration.calibrate import Measure, in_own_processes, rates_of, say_so
from vit_colossal.calibration.measure import measure_together
from vit_colossal.calibration.work import Work
from vit_colossal.config.plugins import AUTO, DEFAULT_PLUGIN
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError, SharedProblems
from vit_colossal.forecast.candidates import CHOSEN, Candidate, Candidates, candidates, with_times
from vit_colossal.forecast.devices import Room, room_here
from vit_colossal.forecast.state import rounding
from vit_colossal.forecast.step_time import why_untimed
from vit_colossal.forecast.subject import subject
from vit_colossal.plan import run_folder
from vit_colossal.runtime.agreement import Fact, together
from vit_colossal.runtime.group import Topology, in_group
from vit_colossal.runtime.memory import reset_peak
from vit_colossal.text import counted
from vit_colossal.training.resuming import Origin, as_chosen_there, find_origin

#: What is chosen; the batch only where nobody named one.
_NAMES = (*CHOSEN, "global_batch_size")


@dataclass(frozen=True)
class Choice:
    """What ``--plugin auto`` stands for.

    Attributes:
        settings: to put in its place.
        why: a line for a person.
    """

    settings: dict[str, Any]
    why: str


@dataclass(frozen=True)
class Sight:
    """What one process sees on its host.

    Attributes:
        host: its name.
        room: what a rank may take there.
        origin: the run that is continued.
        planned: the number of processes that the run was planned for.
        problems: why there is none to continue.
    """

    host: str
    room: Room
    origin: Origin | None = None
    planned: int | None = None
    problems: tuple[str, ...] = ()


def choose(config: TrainConfig, processes: int) -> Choice:
    """In the process that is to start those of the run.

    Args:
        config: the run.
        processes: of it.

    Raises:
        ConfigError: the run cannot be planned, or no layout fits.
    """
    sight = _look(config, Topology(world_size=processes, local_world_size=processes))
    return decide(config, processes, [sight], in_own_processes)


def choose_together(config: TrainConfig, topology: Topology) -> tuple[Choice, dist.Store | None]:
    """In all processes of a run, which are there already.

    Returns:
        What rank 0 has chosen, and the store in which the ranks have met; None for one process.

    Raises:
        ConfigError: as `choose`, on all ranks.
    """
    sight, store = together(topology, lambda: _look(config, topology), _in_common)
    # The group of the run gets this store too, and finds no address of this one there.
    apart = None if store is None else dist.PrefixStore(f"--plugin {AUTO}", store)
    with in_group(sight.room.device.kind, topology, store=apart) as device:
        sights: list[Any] = [None] * topology.world_size
        dist.all_gather_object(sights, sight)
        answer = _lead(config, sights, device) if topology.rank == 0 else _follow(device)
    _forget(device)
    if isinstance(answer, list):
        raise SharedProblems(answer)
    return answer, store


def flags_of(changes: dict[str, Any]) -> list[str]:
    """The settings as flags, which stand behind those of a person."""
    flags = []
    for name, value in changes.items():
        word = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{word}" if value else f"--no-{word}")
        elif value is not None:
            flags.append(f"--{word}={value}")
    return flags


def _look(config: TrainConfig, topology: Topology) -> Sight:
    """The first process of a host looks for the run that is continued: not all hosts may have it.

    Raises:
        ConfigError: the host lacks the device.
    """
    host = socket.gethostname()
    room = room_here(config, topology.local_world_size, topology.local_rank)
    if topology.local_rank > 0:
        return Sight(host, room)
    try:
        origin = find_origin(config, report=False)
    except ConfigError as error:
        return Sight(host, room, problems=tuple(error.problems))
    return Sight(host, room, origin, None if origin is None else _processes_of(origin))


def _in_common(sight: Sight) -> dict[str, Fact]:
    """Named as in what a rank states that was given a plugin."""
    device = Fact(sight.room.device.kind, "choose one with --device")
    return {"--plugin": Fact(json.dumps(AUTO)), "device": device}


def _lead(config: TrainConfig, sights: Sequence[Sight], device: torch.device) -> Choice | list[str]:
    """Choose, with all ranks to measure what that needs, and tell them what, or the problems."""

    def measure(work: Work, path: Path) -> None:
        say_so(work)
        _told((work, path))
        measure_together(work, path, device)

    # Rates are kept by the number of threads, as the launcher or PyTorch has set it.
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    answer: Choice | list[str]
    try:
        answer = decide(config, len(sights), sights, measure)
    except ConfigError as error:
        answer = error.problems
    _told(answer)
    return answer


def _follow(device: torch.device) -> Choice | list[str]:
    """Measure what rank 0 asks for, until it has chosen."""
    while isinstance(message := _told(None), tuple):
        work, path = message
        measure_together(work, path, device)
    answer: Choice | list[str] = message
    return answer


def _told(message: object) -> Any:
    """What rank 0 says; all have to call this."""
    box = [message]
    dist.broadcast_object_list(box)
    return box[0]


def _forget(device: torch.device) -> None:
    """What was measured is no memory of the run."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_peak()


def decide(
    config: TrainConfig, processes: int, sights: Sequence[Sight], measure: Measure
) -> Choice:
    """Of the layouts that round as the default plugin does at this precision, and so give the same
    results, the fastest that fits. A run that is continued by as many processes keeps its own.

    Args:
        config: the run.
        processes: of it.
        sights: of all of them; of one that stands for all while they are not started.
        measure: what measures.

    Raises:
        ConfigError: the run cannot be planned, or no layout fits.
    """
    if config.batch_size is not None:
        raise ConfigError(
            ["--plugin auto keeps the global batch: give --global-batch-size, not --batch-size"]
        )
    named, again = config.model_fields_set - {"plugin"}, ""
    before = _newest(sights)
    if before.problems:
        raise ConfigError([*before.problems])
    if before.origin is not None:
        config, settings = as_chosen_there(config, before.origin), _settings_of(before.origin)
        if before.planned == processes and "plugin" in settings:
            changes = {name: value for name, value in settings.items() if name not in named}
            line = f"--plugin auto: --plugin {settings['plugin']}, as this run was planned"
            return Choice(changes, line)
        again = f"planned anew for {counted(processes, 'process', 'processes')}: "
    room = min(sights, key=_free).room
    config = config.replace(plugin=DEFAULT_PLUGIN)
    about = subject(config, named, room.device, processes, None)
    found = candidates(about.plan, named, processes, room, about.whole)
    untimed = why_untimed(about.plan, about.whole)
    own = rounding(about.plan.config)
    _alike(found, own, processes, room)  # nothing is measured for what cannot be
    if untimed is None:
        hosts = len({sight.host for sight in sights})
        rates, _ = rates_of(found, about, processes, room, hosts=hosts, measure=measure)
        found = with_times(found, about.whole, rates, room)
    alike = _alike(found, own, processes, room)
    why = f"no time is predicted with {untimed}"
    if alike[0].time is not None:
        why = f"about {alike[0].time.total:.3g} s a step"
    batch = {"global_batch_size": alike[0].plan.config.global_batch_size}
    line = f"--plugin auto: {again}{alike[0].flags}, the first of {len(alike)}; {why}"
    return Choice(alike[0].choice | batch, line)


def _newest(sights: Sequence[Sight]) -> Sight:
    """The host with the newest checkpoint, which all get before they train; else the first one."""
    seen = [sight for sight in sights if sight.origin is not None]
    return max(seen, key=_step, default=sights[0])


def _step(sight: Sight) -> int:
    return -1 if sight.origin is None else sight.origin.checkpoint.step


def _free(sight: Sight) -> float:
    """Bytes for a rank, or what stands for a number that is not known."""
    return math.inf if sight.room.per_rank is None else sight.room.per_rank


def _alike(found: Candidates, own: str, processes: int, room: Room) -> list[Candidate]:
    """Those that fit and round as told, best first.

    Raises:
        ConfigError: there is none; with training's own reasons where all are refused.
    """
    if not found.found and found.refused:
        reasons = sorted(found.refused, key=lambda each: -found.refused[each])
        raise ConfigError([f"--plugin auto: no layout is possible: {reasons[0]}", *reasons[1:3]])
    fitting = [each for each in found.found if each.fits(room)]
    alike = [each for each in fitting if each.rounding == own]
    if not alike:
        other = f"; {fitting[0].flags} fits, and rounds otherwise: name it" if fitting else ""
        raise ConfigError([f"--plugin auto: no layout of {processes} processes fits{other}"])
    return alike


def _settings_of(origin: Origin) -> dict[str, Any]:
    """What its last part was trained with, of what is chosen."""
    settings = origin.segments[-1].settings if origin.segments else {}
    return {name: settings[name] for name in _NAMES if name in settings}


def _processes_of(origin: Origin) -> int | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        text = (origin.run_dir / run_folder.ENVIRONMENT).read_text(encoding="utf-8")
        return int(json.loads(text)["world_size"])
    return None
