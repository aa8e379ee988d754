"""``vit-colossal runs``."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from vit_colossal.config.reading import read_settings
from vit_colossal.config.settings.base import CommandSettings
from vit_colossal.durable import replacing
from vit_colossal.errors import ConfigError
from vit_colossal.rundir.listing import RunLine, filtered, in_order, list_runs
from vit_colossal.text import duration, printable


class RunsSettings(CommandSettings):
    """List all runs below a folder, damaged ones too.

    --where takes NAME=VALUE: a column, or a setting of config.yaml; * stands for anything.
    """

    folder: CliPositionalArg[Path] = Path("runs")
    """Where they are."""
    sort: Literal[
        "started", "accuracy", "time", "run", "state", "model", "plugin", "data", "commit"
    ] = "started"
    """Newest, best, longest or in the order of names first; what is not known comes last."""
    reverse: bool = False
    """The other way round."""
    where: list[str] = Field([])
    """Only runs like this: plugin=zero*, data=beans, seed=1, state=finished; all have to hold."""
    format: Literal["table", "csv", "html"] | None = None
    """Default: by the suffix of --output, else table."""
    output: Path | None = None
    """A file, which is replaced; default: standard output."""


SETTINGS = RunsSettings


def main(flags: Sequence[str], prog: str) -> int:
    """List them."""
    asked = read_settings(SETTINGS, flags, prog)
    every = list_runs(asked.folder)
    runs = in_order(filtered(every, asked.where), asked.sort, reverse=asked.reverse)
    suffix = asked.output.suffix.lower().removeprefix(".") if asked.output else ""
    kind = asked.format or (suffix if suffix in _WRITERS else "table")
    text = _WRITERS[kind](runs, asked.folder)
    if asked.output is None:
        # A folder's name may hold bytes that are no text.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        sys.stdout.write(text)
    else:
        _write(asked.output, text)
    if asked.output is not None or not runs:
        of = f" of {len(every)}" if len(runs) != len(every) else ""
        print(f"{len(runs)}{of} runs in {asked.folder}", file=sys.stderr)
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, errors="backslashreplace", newline="") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError([f"--output {path}: cannot be written ({error.strerror})"]) from None


def _table(runs: Sequence[RunLine], folder: Path) -> str:
    """One line a run."""
    if not runs:
        return ""
    heads = ("run", "state", "accuracy", "95 % interval", "model", "plugin", "layout", "data")
    lines: list[tuple[str, ...]] = [(*heads, "started", "time", "commit", "note")]
    lines += [tuple(printable(cell) or "-" for cell in _cells(run)) for run in runs]
    lines[1:] = [(*cells[:-1], "" if cells[-1] == "-" else cells[-1]) for cells in lines[1:]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


def _cells(run: RunLine) -> tuple[str, ...]:
    accuracy = spread = ""
    if run.accuracy is not None:
        accuracy = f"{run.accuracy:.4f} ({run.correct}/{run.total})"
        spread = f"{run.low:.4f} to {run.high:.4f}"
    time = "" if run.seconds is None else duration(run.seconds)
    facts = (run.model, run.plugin, run.layout, run.data, run.started, time, run.commit, run.note)
    return (run.name, run.state, accuracy, spread, *facts)


def _csv(runs: Sequence[RunLine], folder: Path) -> str:
    out = StringIO()
    names = ("correct", "total", "accuracy", "low", "high", "model", "plugin", "layout", "data")
    more = ("started", "seconds", "commit", "note")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("run", "state", *names, *more))
    for run in runs:
        writer.writerow([run.name, run.state, *(getattr(run, name) for name in (*names, *more))])
    return out.getvalue()


def _html(runs: Sequence[RunLine], folder: Path) -> str:
    from vit_colossal.report.runs_page import render_runs

    return render_runs(runs, str(folder))


_WRITERS: dict[str, Callable[[Sequence[RunLine], Path], str]] = {
    "table": _table,
    "csv": _csv,
    "html": _html,
}
