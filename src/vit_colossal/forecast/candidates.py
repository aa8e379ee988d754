"""Every way to divide a run's work over its processes, with what each would take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from vit_colossal.config.plugins import BUILT_IN, facts_of, plugin_names
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.forecast.activations import covers
from vit_colossal.forecast.devices import Room
from vit_colossal.forecast.memory import Memory, predict, predicts
from vit_colossal.forecast.outline import Outline
from vit_colossal.forecast.rates import Rates
from vit_colossal.forecast.state import rounding
from vit_colossal.forecast.step_time import StepTime, step_time
from vit_colossal.forecast.traffic import most_sent
from vit_colossal.plan.parallel_dims import TARGET_BUBBLE, bubble
from vit_colossal.plan.plan import RunPlan, make_plan

#: What may be chosen; what a person has named of it stays.
CHOSEN = ("plugin", "tp", "pp", "zero", "grad_accumulation", "num_microbatches", "grad_checkpoint")
#: Micro-batches are tried in powers of two, up to this many times the fewest.
_MOST_MICROBATCHES = 16
_UNCUT = {"num_microbatches": None, "microbatch_size": None}


@dataclass(frozen=True)
class Candidate:
    """One way, and what it would take.

    Attributes:
        plan: the run.
        memory: of the fullest rank.
        sent: bytes that a rank sends in a step.
        idle: share of the time that a pipeline's stages wait.
        time: of a step, once rates were measured.
    """

    plan: RunPlan
    memory: Memory
    sent: int
    idle: float
    time: StepTime | None = None

    @property
    def flags(self) -> str:
        """What makes it, as on the command line."""
        config, fields = self.plan.config, type(self.plan.config).model_fields
        found = [f"--plugin {config.plugin}"]
        for name in CHOSEN[1:]:
            value, flag = getattr(config, name), "--" + name.replace("_", "-")
            if name != "num_microbatches" and value != fields[name].default:
                found.append(flag if value is True else f"{flag} {value}")
        if self.plan.dims.pp > 1:
            count = self.plan.batches.num_microbatches // config.grad_accumulation
            found.append(f"--num-microbatches {count}")
        return " ".join(found)

    @property
    def choice(self) -> dict[str, Any]:
        """The settings that make it, by name."""
        return {name: getattr(self.plan.config, name) for name in CHOSEN}

    @property
    def rounding(self) -> str:
        """Which arithmetic it computes in; runs of one kind can be compared."""
        return rounding(self.plan.config)

    @property
    def images_per_second(self) -> float | None:
        """Of all ranks together."""
        return None if self.time is None else self.plan.batches.global_batch / self.time.total

    @property
    def microbatches(self) -> int:
        """Forward passes of a replica in a step."""
        return self.plan.batches.accumulation * self.plan.batches.num_microbatches

    def fits(self, room: Room, margin: float = 1.0) -> bool:
        """Whether it takes no more than a rank may, times ``margin``."""
        return room.per_rank is None or self.memory.peak <= room.per_rank * margin


@dataclass(frozen=True)
class Candidates:
    """All of them, best first, and why others are none.

    Attributes:
        found: valid ones: the best cut of the batch of each layout, then the others.
        refused: by reason, as training gives it, how many.
        unknown: plugins whose memory is not predicted.
        covered: whether it is of the model, whatever the plugin.
    """

    found: tuple[Candidate, ...]
    refused: dict[str, int]
    unknown: tuple[str, ...]
    covered: bool = True

    @property
    def of_each_layout(self) -> list[Candidate]:
        """The best cut of the batch for each plugin, degrees and recomputation."""
        best: dict[tuple[Any, ...], Candidate] = {}
        for each in self.found:
            best.setdefault(_layout(each), each)
        return list(best.values())


def candidates(
    base: RunPlan, named: set[str], world_size: int, room: Room, whole: Outline
) -> Candidates:
    """Try all that the processes allow.

    Args:
        base: a valid run of the same work, all of whose settings are resolved.
        named: settings that a person chose, and that are kept.
        world_size: processes of the run.
        room: what a rank may take, which decides the order.
        whole: the model.
    """
    found: list[Candidate] = []
    refused: dict[str, int] = {}
    unknown: list[str] = []
    for changes in _variants(base, named, world_size):
        try:
            config = base.config.replace(**changes)
            plan = make_plan(config, world_size, room.device, spec=base.spec)
        except ConfigError as error:
            for problem in error.problems:
                refused[problem] = refused.get(problem, 0) + 1
            continue
        if not predicts(plan):
            unknown.append(plan.config.plugin)
            continue
        idle = bubble(plan.dims.pp, plan.batches.num_microbatches)
        found.append(Candidate(plan, predict(plan, whole), most_sent(plan, whole), idle))
    without = tuple(dict.fromkeys(unknown))
    return Candidates(_in_order(found, room), refused, without, covers(base))


def with_times(found: Candidates, whole: Outline, rates: Rates, room: Room) -> Candidates:
    """The same, each with the time of a step, the fastest first of what fits."""
    timed = [replace(each, time=step_time(each.plan, whole, rates)) for each in found.found]
    return replace(found, found=_in_order(timed, room))


def _in_order(found: list[Candidate], room: Room) -> tuple[Candidate, ...]:
    best: dict[tuple[Any, ...], Candidate] = {}
    for each in sorted(found, key=lambda each: _order_of_cuts(each, room)):
        best.setdefault(_layout(each), each)
    chosen = {id(each) for each in best.values()}
    return tuple(sorted(found, key=lambda each: (id(each) not in chosen, _order(each, room))))


def _layout(candidate: Candidate) -> tuple[Any, ...]:
    config = candidate.plan.config
    return config.plugin, config.tp, config.pp, config.zero, config.grad_checkpoint


def _order_of_cuts(candidate: Candidate, room: Room) -> tuple[Any, ...]:
    """Of one layout: what fits, a pipeline that is busy enough, as few parts as that takes."""
    if not candidate.fits(room):
        return (True, candidate.memory.peak)
    if candidate.time is not None:
        return _by_time(candidate, candidate.time)
    return (False, candidate.idle >= TARGET_BUBBLE, candidate.microbatches)


def _order(candidate: Candidate, room: Room) -> tuple[Any, ...]:
    """What fits comes first, by its time; where that is not known, without recomputation, by what
    is idle, sent, cut up and taken."""
    checkpointed = candidate.plan.config.grad_checkpoint
    if not candidate.fits(room):
        return (True, candidate.memory.peak)
    if candidate.time is not None:
        return _by_time(candidate, candidate.time)
    work = (checkpointed, round(candidate.idle, 3), candidate.sent, candidate.microbatches)
    return (False, *work, candidate.memory.peak)


def _by_time(candidate: Candidate, time: StepTime) -> tuple[Any, ...]:
    """Sums of the same parts in another order are the same time; then as few parts, and bytes."""
    rounded = float(f"{time.total:.9g}")
    return (False, rounded, candidate.microbatches, candidate.sent, candidate.memory.peak)


def _variants(base: RunPlan, named: set[str], world_size: int) -> Iterator[dict[str, Any]]:
    """Settings to change; each plugin keeps the settings that are its own."""
    config = base.config
    plugins = [config.plugin] if "plugin" in named else plugin_names()
    checkpoints = [config.grad_checkpoint] if "grad_checkpoint" in named else [False, True]
    for plugin in plugins:
        own = _without_others(config, plugin)
        for degrees in _degrees(config, named, plugin, world_size):
            for cut in _cuts(base, named, degrees, world_size):
                for checkpoint in checkpoints:
                    yield {**own, **degrees, **cut, "plugin": plugin, "grad_checkpoint": checkpoint}


def _without_others(config: TrainConfig, plugin: str) -> dict[str, Any]:
    """Defaults of the settings that belong to other plugins, by the beginning of their names."""
    fields = type(config).model_fields
    owners = {name: name.partition("_")[0] for name in fields}
    others = [name for name, owner in owners.items() if owner in BUILT_IN and owner != plugin]
    return {name: fields[name].default for name in others}


def _degrees(
    config: TrainConfig, named: set[str], plugin: str, world_size: int
) -> Iterator[dict[str, int]]:
    asked: dict[str, int] = {
        name: getattr(config, name) for name in ("tp", "pp", "zero") if name in named
    }
    if not facts_of(plugin).has_degrees:
        yield {"tp": 1, "pp": 1, "zero": 0, **asked}
        return
    sizes = [n for n in range(1, world_size + 1) if world_size % n == 0]
    for tp in [asked["tp"]] if "tp" in asked else sizes:
        for pp in [asked["pp"]] if "pp" in asked else sizes:
            if tp * pp == 1 and "plugin" not in named:
                continue  # the other plugins are what it is without degrees
            if world_size % (tp * pp):
                if asked.keys() & {"tp", "pp"}:  # training says why
                    yield {"tp": tp, "pp": pp, "zero": 0}
                continue
            for zero in [asked["zero"]] if "zero" in asked else [0, 1]:
                # One replica has nobody to divide with.
                if zero == 0 or "zero" in asked or world_size > tp * pp:
                    yield {"tp": tp, "pp": pp, "zero": zero}


def _cuts(
    base: RunPlan, named: set[str], degrees: dict[str, int], world_size: int
) -> Iterator[dict[str, Any]]:
    """Ways to cut a replica's batch: micro-batches of a pipeline, else accumulation."""
    config, pp = base.config, degrees["pp"]
    dp = max(1, world_size // (degrees["tp"] * pp))
    images = max(1, base.batches.global_batch // (dp * config.grad_accumulation))
    if pp == 1:
        counts = [1] if "grad_accumulation" in named else _halvings(images, 1)
        for times in counts:
            yield {**_UNCUT, "grad_accumulation": config.grad_accumulation * times}
    elif {"num_microbatches", "microbatch_size"} & named:
        yield {}
    else:
        for count in (None, *_halvings(images, pp)):
            yield {**_UNCUT, "num_microbatches": count}


def _halvings(images: int, fewest: int) -> list[int]:
    """Powers of two times the fewest, as far as they divide the images."""
    powers = [fewest * 2**n for n in range(_MOST_MICROBATCHES.bit_length())]
    return [count for count in powers if count <= images and images % count == 0]
