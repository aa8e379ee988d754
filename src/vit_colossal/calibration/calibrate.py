"""The rates of a machine: those that are kept, or measured by as many processes as a run has."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

from vit_colossal.calibration.measure import measure
from vit_colossal.calibration.work import Work, work_of
from vit_colossal.data.sources.request import default_cache_root
from vit_colossal.errors import ConfigError, ExitCode
from vit_colossal.forecast.candidates import Candidates
from vit_colossal.forecast.devices import Room
from vit_colossal.forecast.rates import Rates, read_rates
from vit_colossal.forecast.subject import Subject
from vit_colossal.runtime import activate
from vit_colossal.runtime.interpreter import share_cpu, without_collecting
from vit_colossal.runtime.spawn import can_fork, launch
from vit_colossal.text import counted

#: Measures some work and leaves the rates in a file; it raises ConfigError where it cannot.
Measure = Callable[[Work, Path], None]
#: Of the cache.
FOLDER = "rates"


def in_own_processes(work: Work, path: Path) -> None:
    """Measure in processes that are started for it, and end with it.

    Raises:
        ConfigError: one of them failed, and said why.
    """
    say_so(work)
    if can_fork():
        _import_all()
    code = launch(partial(measure, work, path), work.processes)
    if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
        raise SystemExit(code)
    if code != ExitCode.OK:
        problem = f"measuring on {_processes(work)} ended with exit code {code}, see above"
        raise ConfigError([f"{problem}: no time can be predicted here"])


def _processes(work: Work) -> str:
    return counted(work.processes, "process", "processes")


def say_so(work: Work) -> None:
    """Tell a person what takes a minute now."""
    print(
        f"measuring on {_processes(work)}, at most a minute beyond their start ...",
        file=sys.stderr,
        flush=True,
    )


def rates_of(
    found: Candidates,
    about: Subject,
    processes: int,
    room: Room,
    *,
    hosts: int = 1,
    measure: Measure = in_own_processes,
) -> tuple[Rates, str]:
    """The rates that all the candidates need, and a sentence on where they come from.

    Args:
        found: the candidates, of which there has to be one.
        about: what they are of.
        processes: of the run.
        room: what a rank may take.
        hosts: that the processes run on.
        measure: what measures where no rates are kept.

    Raises:
        ConfigError: the time of such a run is not predicted, measuring failed, or there is no place
            for what was measured.
    """
    share_cpu(processes)
    work = work_of(found, about.plan, about.whole, about.num_labels, processes, room, hosts)
    root = about.plan.config.cache_dir or default_cache_root()
    path = root / FOLDER / f"{work.digest}.json"
    rates = _kept(path, work.batches[-1])
    if rates is None:
        _make_folder(path.parent)
        measure(work, path)
        rates = read_rates(path)
    return rates, (
        f"Times are predicted from rates measured here on {rates.measured} in "
        f"{rates.seconds:.0f} s, kept in {path}: delete it to measure anew"
    )


def _make_folder(folder: Path) -> None:
    """Before a minute is spent, and before other ranks wait for this one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            [f"rates cannot be kept in {folder} ({error.strerror}): choose another --cache-dir"]
        ) from error


def _kept(path: Path, largest_batch: int) -> Rates | None:
    """None where so many images were not asked for, as there was less memory; where there was no
    time for those that were, larger ones would not be timed either."""
    with suppress(OSError, ValueError):  # there is none, or another version's
        rates = read_rates(path)
        timed = max(each.head.sizes[-1] for each in rates.pieces.values())
        if largest_batch <= rates.largest_batch or timed < rates.largest_batch:
            return rates
    return None


@without_collecting()
def _import_all() -> None:
    """Once for all processes that are forked."""
    activate("cpu")
    import_module("vit_colossal.strategies.choice")
