"""The rates of this machine: those that are kept, or measured in processes that are started."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

from vit_colossal.calibration.measure import measure
from vit_colossal.calibration.work import Work, work_of
from vit_colossal.data.sources.request import default_cache_root
from vit_colossal.errors import ConfigError, ExitCode
from vit_colossal.forecast.candidates import Candidates, with_times
from vit_colossal.forecast.devices import Room
from vit_colossal.forecast.rates import Rates, read_rates
from vit_colossal.forecast.subject import Subject
from vit_colossal.runtime import activate
from vit_colossal.runtime.interpreter import share_cpu, without_collecting
from vit_colossal.runtime.spawn import can_fork, launch

#: Of the cache.
FOLDER = "rates"


def timed(found: Candidates, about: Subject, processes: int, room: Room) -> tuple[Candidates, str]:
    """The candidates with the time of a step, and a sentence on where it comes from.

    Args:
        found: the candidates, of which there has to be one.
        about: what they are of.
        processes: of the run.
        room: what a rank may take.

    Raises:
        ConfigError: the time of such a run is not predicted, or measuring failed.
    """
    share_cpu(processes)
    work = work_of(found, about.plan, about.whole, about.num_labels, processes, room)
    root = about.plan.config.cache_dir or default_cache_root()
    path = root / FOLDER / f"{work.digest}.json"
    rates = _kept(path) or _measured(work, path)
    said = (
        f"Times are predicted from rates measured here on {rates.measured} in "
        f"{rates.seconds:.0f} s, kept in {path}: delete it to measure anew"
    )
    return with_times(found, about.whole, rates, room), said


def _kept(path: Path) -> Rates | None:
    with suppress(OSError, ValueError):  # there is none, or another version's
        return read_rates(path)
    return None


def _measured(work: Work, path: Path) -> Rates:
    print(
        f"measuring on {work.processes} processes, at most a minute beyond their start ...",
        file=sys.stderr,
        flush=True,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # What runs in several threads before a fork does not run in any after it.
    torch.set_num_threads(1)
    if can_fork():
        _import_all()
    code = launch(partial(measure, work, path), work.processes)
    if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
        raise SystemExit(code)
    if code != ExitCode.OK:
        raise ConfigError(
            [
                f"measuring on {work.processes} processes ended with exit code {code}, see above: "
                "leave --measure out to plan without times"
            ]
        )
    return read_rates(path)


@without_collecting()
def _import_all() -> None:
    """Once for all processes that are forked."""
    activate("cpu")
    import_module("vit_colossal.strategies.choice")
