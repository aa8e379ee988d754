"""``--plugin auto``: the layout that is predicted to be the fastest, before anything is started."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

from vit_colossal.calibration.calibrate import timed
from vit_colossal.config.plugins import DEFAULT_PLUGIN
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.forecast.candidates import CHOSEN, candidates
from vit_colossal.forecast.devices import room_here
from vit_colossal.forecast.state import rounding
from vit_colossal.forecast.step_time import why_untimed
from vit_colossal.forecast.subject import subject
from vit_colossal.plan import run_folder
from vit_colossal.training.resuming import Origin, as_chosen_there, find_origin

#: What is chosen; the batch only where nobody named one.
_NAMES = (*CHOSEN, "global_batch_size")


def choose(config: TrainConfig, processes: int) -> tuple[dict[str, Any], str]:
    """Settings to put in the place of ``--plugin auto``, and a line on why.

    Of the layouts that round as the default plugin does at this precision, and so give the same
    results, the fastest that fits. A run that is continued by as many processes keeps its own.

    Args:
        config: the run.
        processes: of it, which this one is to start.

    Raises:
        ConfigError: the run cannot be planned, or none of those fits.
    """
    if "RANK" in os.environ:
        raise ConfigError(
            [
                "--plugin auto plans before processes are started, not under torchrun or "
                "colossalai run: use --nproc, or name what 'vit-colossal plan' puts first"
            ]
        )
    if config.batch_size is not None:
        raise ConfigError(
            ["--plugin auto keeps the global batch: give --global-batch-size, not --batch-size"]
        )
    named, again = config.model_fields_set - {"plugin"}, ""
    origin = find_origin(config, report=False)
    if origin is not None:
        config, before = as_chosen_there(config, origin), _of_the_run(origin)
        if before.pop("processes", None) == processes and "plugin" in before:
            changes = {name: value for name, value in before.items() if name not in named}
            return changes, f"--plugin auto: --plugin {before['plugin']}, as this run was planned"
        again = f"planned anew for {processes} processes: "
    return _planned(config, named, processes, again)


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


def _planned(
    config: TrainConfig, named: set[str], processes: int, again: str
) -> tuple[dict[str, Any], str]:
    config = config.replace(plugin=DEFAULT_PLUGIN)
    room = room_here(config, processes)
    about = subject(config, named, room.device, processes, None)
    found = candidates(about.plan, named, processes, room, about.whole)
    untimed = why_untimed(about.plan, about.whole)
    if found.found and untimed is None:
        found, _ = timed(found, about, processes, room)
    own = rounding(about.plan.config)
    fitting = [each for each in found.found if each.fits(room)]
    alike = [each for each in fitting if each.rounding == own]
    if not alike:
        other = f"; {fitting[0].flags} fits, and rounds otherwise: name it" if fitting else ""
        raise ConfigError([f"--plugin auto: no layout of {processes} processes fits{other}"])
    first = alike[0]
    why = f"no time is predicted with {untimed}"
    if first.time is not None:
        why = f"about {first.time.total:.3g} s a step"
    changes = {name: getattr(first.plan.config, name) for name in _NAMES}
    return changes, f"--plugin auto: {again}{first.flags}, the first of {len(alike)}; {why}"


def _of_the_run(origin: Origin) -> dict[str, Any]:
    """What the run was planned with, and its number of processes."""
    settings = origin.segments[-1].settings if origin.segments else {}
    found = {name: settings[name] for name in _NAMES if name in settings}
    with suppress(OSError, ValueError, KeyError, TypeError):
        text = (origin.run_dir / run_folder.ENVIRONMENT).read_text(encoding="utf-8")
        found["processes"] = json.loads(text)["world_size"]
    return found
