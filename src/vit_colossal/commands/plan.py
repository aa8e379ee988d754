"""``vit-colossal plan``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_colossal.config.forecast_config import ForecastConfig
from vit_colossal.config.reading import load_config
from vit_colossal.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from vit_colossal.forecast.candidates import Candidates
    from vit_colossal.forecast.devices import Room
    from vit_colossal.forecast.subject import Subject

SETTINGS = ForecastConfig
_PICTURES = (".png", ".svg")


def main(flags: Sequence[str], prog: str) -> int:
    """Print the ways to divide a run; 1 when none of them fits."""
    asked = load_config(flags, prog, SETTINGS)
    if (asked.devices is None) != (asked.device_profile is None):
        raise ConfigError(["--devices N and --device-profile NAME go together"])
    if asked.devices is not None and asked.nproc is not None:
        raise ConfigError(["--nproc is for this machine, --devices for others: give one"])
    if asked.devices is not None and asked.measure:
        raise ConfigError(["--measure is of this machine: use --nproc instead of --devices"])
    if asked.picture is not None:
        _check_picture(asked.picture)
    from vit_colossal.forecast.candidates import candidates, with_times
    from vit_colossal.forecast.devices import by_profile, room_here
    from vit_colossal.forecast.subject import subject
    from vit_colossal.forecast.table import as_document, as_text

    processes = asked.devices or asked.nproc or 1
    profile = asked.device_profile
    room = room_here(asked, processes) if profile is None else by_profile(profile, processes)
    named = asked.model_fields_set & set(SETTINGS.model_fields)
    about = subject(asked, named, room.device, processes, asked.num_labels)
    found = candidates(about.plan, named, processes, room, about.whole)
    sentences: list[str] = []
    sheet = None
    if asked.measure and found.found:
        from vit_colossal.calibration.calibrate import rates_of

        rates, source = rates_of(found, about, processes, room)
        found = with_times(found, about.whole, rates, room)
        about = replace(about, notes=(*about.notes, source))
    elif profile is not None and found.found:
        found, sentences, sheet = _by_sheet(profile, found, about, processes, room)
    heading = _heading(about, room, processes)
    if asked.format == "json":
        config = about.plan.config
        run = {"model": config.model, "num_labels": about.num_labels, "processes": processes}
        run |= {"global_batch_size": config.global_batch_size, "precision": config.precision}
        document = as_document(found, room, **run, notes=about.notes, data_sheet=sheet)
        print(json.dumps(document, indent=1))
    else:
        print(as_text(found, room, heading, sentences))
    if asked.picture is not None and found.found:
        from vit_colossal.forecast.picture import draw

        draw(found, room, heading, asked.picture)
    return ExitCode.OK if any(each.fits(room) for each in found.found) else ExitCode.FAILED


def _check_picture(path: Path) -> None:
    if path.suffix not in _PICTURES:
        raise ConfigError([f"--picture {path}: name a file that ends in {' or '.join(_PICTURES)}"])
    if not path.parent.is_dir():
        raise ConfigError([f"--picture {path}: there is no folder {path.parent}"])


def _by_sheet(
    name: str, found: Candidates, about: Subject, processes: int, room: Room
) -> tuple[Candidates, list[str], dict[str, Any] | None]:
    """The candidates with times where they can be told, with words on these and JSON."""
    from vit_colossal.forecast import extrapolation_report as report
    from vit_colossal.forecast.extrapolation import extrapolate
    from vit_colossal.forecast.profiles import PROFILES
    from vit_colossal.forecast.step_time import why_untimed
    from vit_colossal.forecast.table import SHOWN

    if name not in PROFILES:
        return found, ["Times of CPUs are measured: use --nproc N --measure."], None
    if reason := why_untimed(about.plan, about.whole):
        return found, [f"No time is predicted with {reason}."], None
    told = extrapolate(found, about, PROFILES[name], processes, room)
    precision = about.plan.config.precision or "fp32"
    sentences = report.as_sentences(told, precision, SHOWN)
    return told.found, sentences, report.as_document(told, precision)


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
