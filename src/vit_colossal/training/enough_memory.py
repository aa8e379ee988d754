"""Whether a run fits the memory that is free, and what to change where it did not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vit_colossal.errors import ConfigError, OutOfMemory
from vit_colossal.forecast.candidates import Candidate, candidates
from vit_colossal.forecast.devices import Room, of_this_machine
from vit_colossal.forecast.memory import KINDS, Memory, predict, predict_stages, predicts
from vit_colossal.forecast.outline import Outline, outline
from vit_colossal.forecast.table import gib
from vit_colossal.plan.plan import RunPlan
from vit_colossal.runtime.group import Topology
from vit_colossal.runtime.memory import free_bytes

#: A run is refused where more than this is predicted of what is free.
MARGIN = 1.1
#: What PyTorch's allocator of host memory says, which has no type of its own.
_HOST = "can't allocate memory"


def check_memory(plan: RunPlan, num_labels: int, topology: Topology) -> None:
    """Look once on each machine, or device, before anything is built.

    Args:
        plan: the run.
        num_labels: of its head.
        topology: this process's place; on a CPU the first of a host looks for all of them.

    Raises:
        ConfigError: more than ``MARGIN`` times the free memory is predicted; with what would fit.
    """
    if not plan.config.memory_check or not predicts(plan):
        return
    if plan.device.kind == "cpu" and topology.local_rank == 0:
        _check_host(plan, outline(plan, num_labels), topology.local_world_size)
    elif plan.device.kind == "cuda" and _is_a_rank(plan):
        free = torch.cuda.mem_get_info(topology.local_rank)[0]
        whole = outline(plan, num_labels)
        stage = plan.dims.coordinate(topology.rank).pp
        memory = predict_stages(plan, whole)[stage]
        if memory.growth > MARGIN * free:
            room = of_this_machine(plan.device, topology.local_world_size, free)
            raise ConfigError([_refusal(plan, whole, memory, room)])


def _is_a_rank(plan: RunPlan) -> bool:
    """Not a process that starts the others: to ask a GPU takes memory of it."""
    return plan.config.nproc is None or "RANK" in os.environ


def _check_host(plan: RunPlan, whole: Outline, local_processes: int) -> None:
    """Of the processes on a host together, without what each takes before it holds a weight."""
    free, stages = free_bytes(), predict_stages(plan, whole)
    growth = sum(memory.growth for memory in stages) / len(stages) * local_processes
    if free is not None and growth > MARGIN * free:
        room = of_this_machine(plan.device, local_processes)
        raise ConfigError([_refusal(plan, whole, predict(plan, whole), room)])


def _refusal(plan: RunPlan, whole: Outline, memory: Memory, room: Room) -> str:
    return (
        f"--plugin {plan.config.plugin} would take about {gib(memory.growth)} in a process "
        f"({_largest(memory)}), of {gib(room.left or 0)} that is free for each: "
        f"{_advice(plan, whole, room)}; --no-memory-check starts it all the same"
    )


def _largest(memory: Memory) -> str:
    """The three kinds that take the most."""
    sizes = sorted(((getattr(memory, kind), kind) for kind in KINDS), reverse=True)
    return ", ".join(f"{kind} {gib(size)}" for size, kind in sizes[:3] if size)


def _advice(plan: RunPlan, whole: Outline, room: Room) -> str:
    nearest = _nearest(plan, whole, room)
    if nearest is None:
        return "no other layout fits; use more devices, a smaller model or --global-batch-size"
    return f"use {nearest.flags} ({gib(nearest.memory.growth)})"


def _nearest(plan: RunPlan, whole: Outline, room: Room) -> Candidate | None:
    """The first that fits and gives the same results at the same batch."""
    # Trainer's order depends on how it accumulates.
    named = {"grad_accumulation"} if plan.config.order is not None else set()
    found = candidates(plan, named, plan.dims.world_size, room, whole).found
    alike = next((c.rounding for c in found if c.plan.config.plugin == plan.config.plugin), None)
    return next((c for c in found if c.fits(room) and c.rounding == alike), None)


@contextmanager
def explained(plan: RunPlan, num_labels: int) -> Iterator[None]:
    """Inside, an allocation that fails ends the run with what was predicted and what to change.

    Raises:
        OutOfMemory: memory ran out.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(_after(plan, num_labels, error)) from error
    except RuntimeError as error:
        if _HOST not in str(error):
            raise
        raise OutOfMemory(_after(plan, num_labels, error)) from error


def _after(plan: RunPlan, num_labels: int, error: RuntimeError) -> str:
    said = f"out of memory: {str(error).strip().splitlines()[0]}"
    if not predicts(plan):
        return f"{said}\n  take less at a time: --grad-checkpoint, or a larger --grad-accumulation"
    whole = outline(plan, num_labels)
    memory = predict(plan, whole)
    # What was predicted was too little: what is to fit has to be clearly smaller.
    half = memory.framework + memory.growth // 2
    room = Room(plan.device, half, "half of what was predicted", True)
    return (
        f"{said}\n  predicted were {gib(memory.growth)} in a process ({_largest(memory)}): "
        f"{_advice(plan, whole, room)}"
    )
