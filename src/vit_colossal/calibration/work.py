"""What has to be measured so that the candidates of a run can be timed."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from typing import Any

import torch

from vit_colossal.errors import ConfigError
from vit_colossal.forecast.activations import block_bytes
from vit_colossal.forecast.candidates import Candidates
from vit_colossal.forecast.devices import Room
from vit_colossal.forecast.outline import Outline
from vit_colossal.forecast.state import element_size, rounding, zero_stage
from vit_colossal.forecast.step_time import why_untimed
from vit_colossal.plan.plan import RunPlan
from vit_colossal.rundir.record import versions
from vit_colossal.runtime.cpu import cpu_name

#: Bytes of weights in the blocks that are measured, and how many there are at least: fewer would
#: find their weights in the cache, where those of the whole model have no room.
_WEIGHTS, _FEWEST = 2**26, 3
#: What an identity says in other words, or leaves out.
_NOT_OF_RATES = ("plan", "batches")


@dataclass(frozen=True)
class Work:
    """One calibration.

    Attributes:
        plan: the run, undivided; it names model, optimizer and device.
        num_labels: of the head.
        layers: blocks of the model that is measured.
        processes: that work at once.
        hosts: that they run on.
        variants: how candidates compute, as :func:`pieces_key` takes it.
        batches: images of a pass, ascending.
        plugins: whose optimizers update.
        elements: bytes of the numbers that are sent.
    """

    plan: RunPlan
    num_labels: int
    layers: int
    processes: int
    hosts: int
    variants: tuple[tuple[str, int, bool, bool], ...]
    batches: tuple[int, ...]
    plugins: tuple[str, ...]
    elements: tuple[int, ...]

    @property
    def identity(self) -> dict[str, Any]:
        """All that the rates depend on, as JSON; not the batches, of which there are as many as
        there is memory for just then."""
        config, spec, on_cuda = self.plan.config, self.plan.spec, self.plan.device.kind == "cuda"
        rest = {name: value for name, value in vars(self).items() if name not in _NOT_OF_RATES}
        return {
            "device": torch.cuda.get_device_name() if on_cuda else cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "threads": os.environ["OMP_NUM_THREADS"],
            "versions": versions("torch", "transformers", "colossalai"),
            "model": [spec.name, spec.model_type],
            "sizes": {**spec.identity(), "num_layers": self.layers, "overrides": spec.overrides},
            "precision": config.precision,
            "optimizer": [config.optimizer, config.order, config.clip_grad_norm],
            **rest,
        }

    @property
    def digest(self) -> str:
        """Of the identity."""
        text = json.dumps(self.identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def work_of(
    found: Candidates,
    base: RunPlan,
    whole: Outline,
    num_labels: int,
    processes: int,
    room: Room,
    hosts: int = 1,
) -> Work:
    """What the candidates do, as far as they fit.

    Args:
        found: at least one candidate.
        base: the run, undivided.
        whole: its model.
        num_labels: of its head.
        processes: of the run.
        room: of a rank; larger batches are not measured than it has memory for.
        hosts: that the processes run on.

    Raises:
        ConfigError: the time of such a run is not predicted.
    """
    if reason := why_untimed(base, whole):
        raise ConfigError([f"no time is predicted with {reason}: leave --measure out"])
    block = 4 * sum(weight.numel for weight in whole.weights if weight.block == 0)
    layers = min(base.spec.shape.num_layers, max(_FEWEST, math.ceil(_WEIGHTS / block)))
    plans = [each.plan for each in found.found]
    wanted = {p.batches.microbatch for p, c in zip(plans, found.found, strict=True) if c.fits(room)}
    largest = max(wanted, default=1)
    if room.left is not None:  # half of it, for the blocks that are measured
        most = max(1, room.left // (2 * layers * block_bytes(base, whole)))
        if largest > most:  # a power of two, which does not change with each MiB that is free
            largest = 1 << most.bit_length() - 1
    powers = [2**n for n in range(largest.bit_length())]
    return Work(
        plan=base,
        num_labels=num_labels,
        layers=layers,
        processes=processes,
        hosts=hosts,
        variants=tuple(sorted({_variant(p) for p in plans}, key=lambda each: (each[-1], each))),
        batches=tuple(sorted({*powers, largest})),
        plugins=tuple(sorted({plan.config.plugin for plan in plans})),
        elements=tuple(sorted({element_size(plan.config) for plan in plans})),
    )


def _variant(plan: RunPlan) -> tuple[str, int, bool, bool]:
    """Threads that copy what ZeRO gathers are in the way of an operator's only where it has some:
    see ``runtime.interpreter.keep_threads_awake``."""
    config = plan.config
    several = plan.device.kind == "cpu" and os.environ["OMP_NUM_THREADS"] != "1"
    beside = several and zero_stage(config) != 0
    return rounding(config), plan.dims.tp, config.grad_checkpoint, beside
