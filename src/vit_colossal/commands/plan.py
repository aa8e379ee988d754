"""``vit-colossal plan``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vit_colossal.config.forecast_config import ForecastConfig
from vit_colossal.config.reading import load_config
from vit_colossal.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from vit_colossal.forecast.devices import Room
    from vit_colossal.forecast.subject import Subject

SETTINGS = ForecastConfig


def main(flags: Sequence[str], prog: str) -> int:
    """Print the ways to divide a run; 1 when none of them fits."""
    asked = load_config(flags, prog, SETTINGS)
    if (asked.devices is None) != (asked.device_profile is None):
        raise ConfigError(["--devices N and --device-profile NAME go together"])
    if asked.devices is not None and asked.nproc is not None:
        raise ConfigError(["--nproc is for this machine, --devices for others: give one"])
    if asked.devices is not None and asked.measure:
        raise ConfigError(["--measure is of this machine: use --nproc instead of --devices"])
    from vit_colossal.forecast.candidates import candidates
    from vit_colossal.forecast.devices import by_profile, room_here
    from vit_colossal.forecast.subject import subject
    from vit_colossal.forecast.table import as_document, as_text

    processes = asked.devices or asked.nproc or 1
    profile = asked.device_profile
    room = room_here(asked, processes) if profile is None else by_profile(profile, processes)
    named = asked.model_fields_set & set(SETTINGS.model_fields)
    about = subject(asked, named, room.device, processes, asked.num_labels)
    found = candidates(about.plan, named, processes, room, about.whole)
    if asked.measure and found.found:
        from vit_colossal.calibration.calibrate import timed

        found, source = timed(found, about, processes, room)
        about = replace(about, notes=(*about.notes, source))
    if asked.format == "json":
        config = about.plan.config
        run = {"model": config.model, "num_labels": about.num_labels, "processes": processes}
        run |= {"global_batch_size": config.global_batch_size, "precision": config.precision}
        document = as_document(found, room, **run, notes=about.notes)
        print(json.dumps(document, indent=1))
    else:
        print(as_text(found, room, _heading(about, room, processes)))
    return ExitCode.OK if any(each.fits(room) for each in found.found) else ExitCode.FAILED


def _heading(about: Subject, room: Room, processes: int) -> list[str]:
    from vit_colossal.forecast.table import gib

    plan, parameters = about.plan, about.whole.numel / 1e6
    free = "unknown" if room.per_rank is None else gib(room.per_rank)
    lines = [
        f"{plan.config.model}: {parameters:,.1f} M parameters, {plan.spec.image_size} px, "
        f"{about.num_labels} labels; global batch {plan.batches.global_batch}, "
        f"{plan.config.precision}, {plan.config.optimizer}",
        f"{processes} x {room.device.kind}: {free} a rank, {room.words}",
    ]
    if room.extrapolated:
        lines.append("extrapolated: no such device was looked at, nothing of it was measured")
    return [*lines, *about.notes]
