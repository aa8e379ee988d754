"""``train.py`` with one planted fault: ``python faulty_train.py PROCESSES FLAGS...``.

The fault is read from the environment variable FAULT, a JSON object (see ``Fault``). Without it the
run is a plain one. The first process starts PROCESSES ranks of this same script through the
project's launcher; the faults are patched in here, for the package knows nothing of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

#: These happen on the lead rank alone, whatever its number.
ON_THE_LEAD = ("save:write", "save:sync", "save:rename", "save:point")
PHASES = ("forward", "backward", "optimizer", "evaluation", "save:collect", *ON_THE_LEAD)
#: While the images are decoded into the cache, by the one rank that does so: before any step.
DECODE = "decode"
KINDS = ("SIGKILL", "SIGTERM", "SIGSTOP", "exception")  # and nan, which spoils a weight


class Planted(Exception):
    """The planted error."""


@dataclass(frozen=True)
class Fault:
    """What happens, where and when.

    Attributes:
        rank: the rank that it hits, where the phase happens on all.
        step: it happens the first time the phase is reached in this step or later.
        phase: one of PHASES, or DECODE.
        kind: a signal that the rank sends itself, or an exception.
        mark: a file that is written when it happens.
    """

    rank: int
    step: int
    phase: str
    kind: str
    mark: str = ""


class Planter:
    """Waits for the fault's moment."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.loop: Any = None
        self.inside = ""
        self.done = False

    def reached(self, phase: str) -> None:
        """Strike, if this is the moment."""
        fault = self.fault
        if self.done or phase != fault.phase:
            return
        step = self._step()
        if step is None:
            return
        self.done = True
        if fault.mark:
            Path(fault.mark).write_text(str(step))
        if fault.kind == "exception":
            raise Planted(f"planted in {phase} of step {step}")
        if fault.kind == "nan":
            next(self.loop.job.engine.model.parameters()).data.fill_(float("nan"))
            return
        os.kill(os.getpid(), getattr(signal, fault.kind))

    def _step(self) -> int | None:
        """The step in which the fault's phase was reached, if it strikes here and now."""
        fault = self.fault
        if fault.phase == DECODE:  # once, even if another rank goes on with it
            return None if Path(fault.mark).exists() else fault.step
        if self.loop is None or self.loop.step < fault.step:
            return None
        here = fault.phase in ON_THE_LEAD or self.loop.job.engine.rank == fault.rank
        return self.loop.step if here else None

    def around(self, owner: Any, name: str, before: str = "", after: str = "") -> None:
        """Reach a phase before or after each call of ``owner.name``."""
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if before:
                self.reached(before)
            result = original(*args, **kwargs)
            if after:
                self.reached(after)
            return result

        setattr(owner, name, call)

    def within(self, owner: Any, name: str, what: str) -> None:
        """Know during each call of ``owner.name`` that it runs."""
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.inside = what
            try:
                return original(*args, **kwargs)
            finally:
                self.inside = ""

        setattr(owner, name, call)


def plant(fault: Fault) -> None:
    """Patch this process so that the fault will happen."""
    from torch.optim.optimizer import register_optimizer_step_post_hook
    from transformers.models.vit.modeling_vit import ViTLayer

    from vit_colossal.checkpoints import files as checkpoint
    from vit_colossal.checkpoints import state as train_state
    from vit_colossal.data import cache
    from vit_colossal.training import job, loop

    planter = Planter(fault)
    planter.within(loop, "train_step", "train")
    planter.within(job.Job, "evaluate", "evaluation")
    _plant_in_layers(planter, ViTLayer)
    # The update is done, what follows it (ZeRO's gathering, the schedule) is not.
    register_optimizer_step_post_hook(lambda *_: planter.reached("optimizer"))
    planter.around(cache, "decode_rows", after=DECODE)
    planter.around(train_state, "_transfer", after="save:collect")
    planter.around(checkpoint, "save_file", after="save:write")
    planter.around(checkpoint, "sync", before="save:sync")
    planter.around(checkpoint, "point", before="save:point")
    planter.around(checkpoint.os, "rename", before="save:rename")
    resume = loop.Loop.resume

    def remember(self: Any) -> None:
        resume(self)
        planter.loop = self

    loop.Loop.resume = remember  # type: ignore[method-assign]


def _plant_in_layers(planter: Planter, layer: Any) -> None:
    forward: Callable[..., Any] = layer.forward

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        if planter.inside == "evaluation":
            planter.reached("evaluation")
        if planter.inside == "train":
            planter.reached("forward")
            if output.requires_grad:
                output.register_hook(lambda gradient: planter.reached("backward"))
        return output

    layer.forward = call


def main(arguments: list[str]) -> int:
    processes, *flags = arguments
    if int(processes) > 1 and "RANK" not in os.environ:
        from vit_colossal.runtime.spawn import launch

        return launch(partial(train, flags), int(processes))
    return train(flags)


def train(flags: Sequence[str]) -> int:
    """What each process does."""
    from vit_colossal.commands.run import run_command

    text = os.environ.get("FAULT")
    if text:
        # ColossalAI takes its accelerator when it is imported, so the device is settled first.
        from vit_colossal import runtime

        runtime.activate("cpu")
        fault = Fault(**json.loads(text))
        if not Path(fault.mark).is_file():  # a launcher may start this again
            plant(fault)
    return run_command("train", flags, prog="faulty_train.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
