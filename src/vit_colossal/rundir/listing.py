"""All runs below a folder, one line each: read without PyTorch, and whatever state they are in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vit_colossal.errors import ConfigError
from vit_colossal.evaluation.certainty import interval
from vit_colossal.plan import run_folder
from vit_colossal.rundir.events import EvalEvent, Event, StartEvent
from vit_colossal.rundir.lenient import MARKS, read_events, read_mapping, state_of
from vit_colossal.text import did_you_mean, shown


@dataclass(frozen=True)
class RunLine:
    """One run of a table.

    Attributes:
        name: its folder, below the one that was searched.
        state: ``finished``, ``stopped``, ``unfinished`` or ``damaged``.
        correct, total: images of the last evaluation; None where there was none.
        low, high: the 95 % interval of their share.
        model, plugin, data: as configured; empty where that is not known.
        layout: the degrees.
        started: when training began, or went on last; ISO 8601.
        seconds: that it has trained.
        commit: of the package.
        note: what is missing or unreadable.
        settings: of config.yaml.
    """

    name: str
    state: str
    correct: int | None = None
    total: int | None = None
    low: float | None = None
    high: float | None = None
    model: str = ""
    plugin: str = ""
    layout: str = ""
    data: str = ""
    started: str = ""
    seconds: float | None = None
    commit: str = ""
    note: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """Of the last evaluation."""
        if self.correct is None or not self.total:
            return None
        return self.correct / self.total


#: The columns by which runs are sorted, and whether the largest comes first.
SORTS: dict[str, tuple[Callable[[RunLine], Any], bool]] = {
    "started": (lambda run: run.started or None, True),
    "accuracy": (lambda run: run.accuracy, True),
    "time": (lambda run: run.seconds, True),
    "run": (lambda run: run.name, False),
    "state": (lambda run: run.state, False),
    "model": (lambda run: run.model or None, False),
    "plugin": (lambda run: run.plugin or None, False),
    "data": (lambda run: run.data or None, False),
    "commit": (lambda run: run.commit or None, False),
}
#: What a filter may name beside the settings of a run.
_COLUMNS = ("state", "model", "plugin", "layout", "data", "commit")


def list_runs(folder: Path) -> list[RunLine]:
    """The runs in a folder and below, by name; the folder itself may be one.

    Raises:
        ConfigError: there is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError([f"{folder}: no such folder: name the one with the runs"])
    try:
        os.listdir(folder)
    except OSError as error:
        raise ConfigError([f"{folder}: cannot be read ({error.strerror})"]) from None
    return sorted((_line(folder, run) for run in _runs(folder)), key=lambda run: run.name)


def filtered(runs: Sequence[RunLine], conditions: Sequence[str]) -> list[RunLine]:
    """The runs that all conditions hold for.

    Args:
        runs: some runs.
        conditions: ``NAME=PATTERN``: a column or a setting of config.yaml, and its whole value, in
            any case, with ``*`` for anything.

    Raises:
        ConfigError: a condition is none, or names what no run has.
    """
    problems = []
    known = {*_COLUMNS, "run", *(name for run in runs for name in run.settings)}
    for condition in conditions:
        name, equals, _ = condition.partition("=")
        if not name or not equals:
            problems.append(f"--where {condition}: write NAME=VALUE, such as plugin=zero*")
        elif runs and _spelled(name) not in known:
            hint = did_you_mean(_spelled(name), known)
            problems.append(f"--where {condition}: no run has a column or setting {name}{hint}")
    if problems:
        raise ConfigError(problems)
    parts = [condition.partition("=") for condition in conditions]
    return [run for run in runs if all(_fits(run, name, value) for name, _, value in parts)]


def in_order(runs: Sequence[RunLine], by: str, *, reverse: bool = False) -> list[RunLine]:
    """Sorted by one of ``SORTS``; runs of which that is not known come last."""
    value, largest_first = SORTS[by]
    known = [run for run in runs if value(run) is not None]
    known.sort(key=value, reverse=largest_first != reverse)
    return known + [run for run in runs if value(run) is None]


def _runs(folder: Path) -> Iterator[Path]:
    """Folders of runs; what lies in one is not searched, nor what a link leads to."""
    for place, folders, files in os.walk(folder):
        if any(mark in files for mark in MARKS):
            folders.clear()
            yield Path(place)
        folders[:] = [name for name in folders if not name.startswith(".")]


def _line(folder: Path, run: Path) -> RunLine:
    """A run as far as it can be read."""
    notes: list[str] = []
    config = read_mapping(run / run_folder.CONFIG, notes)
    environment = read_mapping(run / run_folder.ENVIRONMENT, notes)
    damaged = bool(notes)
    events, written = read_events(run / run_folder.METRICS, notes)
    line = RunLine(
        name=run.relative_to(folder).as_posix() if run != folder else run.resolve().name,
        state="damaged" if damaged else state_of(events, written)[0],
        model=_text(config.get("model")),
        plugin=_text(config.get("plugin")),
        layout=_text(environment.get("layout")),
        data=_text(environment.get("dataset", config.get("dataset"))),
        started=_started(events),
        seconds=events[-1].elapsed if events else None,
        commit=_text(environment.get("commit")),
        settings=config,
    )
    return replace(_with_accuracy(line, events, notes), note="; ".join(notes))


def _with_accuracy(line: RunLine, events: Sequence[Event], notes: list[str]) -> RunLine:
    last = next((event for event in reversed(events) if isinstance(event, EvalEvent)), None)
    if last is None:
        return line
    if not 0 <= last.correct <= last.total or not last.total:
        notes.append(f"the last evaluation counts {last.correct} of {last.total} images")
        return replace(line, state="damaged")
    low, high = interval(last.correct, last.total)
    return replace(line, correct=last.correct, total=last.total, low=low, high=high)


def _started(events: Sequence[Event]) -> str:
    """The time of the last start, if it is one."""
    last = next((event for event in reversed(events) if isinstance(event, StartEvent)), None)
    try:
        return datetime.fromisoformat(last.time).isoformat(timespec="seconds") if last else ""
    except ValueError:
        return ""


def _text(value: Any) -> str:
    return "" if value is None else shown(value)


def _spelled(name: str) -> str:
    return name.strip().replace("-", "_")


def _fits(run: RunLine, name: str, pattern: str) -> bool:
    name = _spelled(name)
    if name == "run":
        value: Any = run.name
    elif name in _COLUMNS:
        value = getattr(run, name)
    elif name in run.settings:
        value = run.settings[name]
    else:
        return False
    texts = {str(value).casefold(), _text(value).casefold()}
    return any(fnmatchcase(text, pattern.strip().casefold()) for text in texts)
