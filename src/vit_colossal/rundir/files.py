"""What a report shows of a run directory: whatever is there, of any run that began."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from vit_colossal.checkpoints import files as checkpoint
from vit_colossal.errors import ConfigError
from vit_colossal.evaluation import predictions
from vit_colossal.evaluation.predictions import Predictions
from vit_colossal.hub import lies_in
from vit_colossal.plan import run_folder
from vit_colossal.rundir.events import (
    EvalEvent,
    Event,
    StartEvent,
    TrainEvent,
)
from vit_colossal.rundir.lenient import MARKS, read_events, read_mapping, state_of
from vit_colossal.rundir.regression import Verdict, check_run
from vit_colossal.rundir.seal import changes_since
from vit_colossal.rundir.segments import read_segments, turns

#: What stands in a report, word by word.
_SHOWN = (*MARKS, run_folder.ENVIRONMENT, run_folder.SEGMENTS, run_folder.PREDICTIONS)


@dataclass(frozen=True)
class CheckpointRow:
    """One checkpoint; ``problem`` is why it cannot be used, empty for a valid one."""

    name: str
    links: tuple[str, ...]
    num_bytes: int
    problem: str


@dataclass(frozen=True)
class RunFiles:
    """A run as its directory tells it.

    Attributes:
        directory: where it lies.
        config, environment: config.yaml and environment.json; empty where missing.
        events: of metrics.jsonl, in order.
        last_event: when metrics.jsonl was written last.
        predictions: of the last evaluation, where the run saved them.
        checkpoints: newest first, each verified.
        verdict: the comparison with a reference, or None.
        no_verdict: why there is none.
        notes: what is missing or unreadable, one line each.
    """

    directory: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    events: list[Event]
    last_event: datetime | None
    predictions: Predictions | None
    checkpoints: list[CheckpointRow]
    verdict: Verdict | None
    no_verdict: str
    notes: list[str] = field(default_factory=list)

    @property
    def start(self) -> StartEvent | None:
        """The last start event: a continued run may have more steps before it than it set out for.

        Older runs have none.
        """
        return next((e for e in reversed(self.events) if isinstance(e, StartEvent)), None)

    @property
    def train(self) -> list[TrainEvent]:
        return [event for event in self.events if isinstance(event, TrainEvent)]

    @property
    def evaluations(self) -> list[EvalEvent]:
        return [event for event in self.events if isinstance(event, EvalEvent)]

    @property
    def state(self) -> tuple[str, str]:
        """``finished``, ``stopped`` or ``unfinished``, and a sentence that says more."""
        return state_of(self.events, self.last_event)


def read_run_files(
    directory: Path, reference: str | None = None, references: Path | None = None
) -> RunFiles:
    """Read a run that has finished, is still going, or died.

    Args:
        directory: the run directory.
        reference: name of the reference to judge it by; the one that matches when not given.
        references: a file of references other than the package's.

    Raises:
        ConfigError: this is no run directory.
    """
    if not directory.is_dir():
        raise ConfigError([f"{directory}: no such run directory"])
    if not any((directory / name).is_file() for name in MARKS):
        raise ConfigError([f"{directory}: neither config.yaml nor metrics.jsonl: not a run"])
    _require_own_files(directory)
    notes: list[str] = []
    config = read_mapping(directory / run_folder.CONFIG, notes)
    environment = read_mapping(directory / run_folder.ENVIRONMENT, notes)
    events, written = read_events(directory / run_folder.METRICS, notes)
    notes += _turns(directory)
    verdict, no_verdict = _verdict(directory, reference, references)
    if reference is not None and verdict is None:  # it was asked for
        notes.append(no_verdict)
    return RunFiles(
        directory=directory,
        config=config,
        environment=environment,
        events=events,
        last_event=written,
        predictions=_predictions(directory, events, notes),
        checkpoints=_checkpoints(directory / run_folder.CHECKPOINTS),
        verdict=verdict,
        no_verdict=no_verdict,
        notes=notes,
    )


def _require_own_files(directory: Path) -> None:
    """Raise ConfigError for links out of the run: a page would show files that are none of its."""
    links = [path for name in _SHOWN if (path := directory / name).is_symlink()]
    root = directory.resolve()
    problems = [
        f"{path} is a link to {path.resolve()}: put the file itself there"
        for path in links
        if not lies_in(path, root)
    ]
    if problems:
        raise ConfigError(problems)


def _turns(directory: Path) -> list[str]:
    """Where the settings were changed: config.yaml has the last ones only."""
    try:
        found = turns(read_segments(directory))
    except ConfigError as error:
        return error.problems
    return [f"settings changed on the way, {turn}" for turn in found]


def _predictions(directory: Path, events: list[Event], notes: list[str]) -> Predictions | None:
    """The saved predictions, if they are those of the last evaluation."""
    try:
        changed = changes_since(directory, run_folder.PREDICTIONS)
        found = None if changed else predictions.load(directory)
    except (ValueError, ConfigError) as error:
        notes.append(str(error))
        return None
    if changed:
        notes += changed
        return None
    if found is None:
        notes.append(
            "no predictions.parquet, which a run writes when it ends: no confusion matrix, classes "
            "and images"
        )
        return None
    counts = [(e.correct, e.total) for e in events if isinstance(e, EvalEvent)]
    if counts and counts[-1] != (int(found.right.sum()), len(found)):
        notes.append("predictions.parquet is of another evaluation than the last: left out")
        return None
    return found


def _verdict(
    directory: Path, reference: str | None, references: Path | None
) -> tuple[Verdict | None, str]:
    try:
        return check_run(directory, reference, references), ""
    except ConfigError as error:
        prefix = f"{directory}: "
        return None, "; ".join(problem.removeprefix(prefix) for problem in error.problems)


def _checkpoints(root: Path) -> list[CheckpointRow]:
    rows = []
    for path in checkpoint.listed(root):
        try:
            checkpoint.verify(path)
            problem = ""
        except checkpoint.CheckpointError as error:
            problem = str(error).removeprefix(f"checkpoint {path}: ")
        names = (
            name
            for name in (run_folder.LAST, run_folder.BEST)
            if (root / name).resolve() == path.resolve()
        )
        size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
        rows.append(CheckpointRow(path.name, tuple(names), size, problem))
    return rows
