"""What all parts share: what is asked for, and the rows of the table."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gpu_check.running import Runner


class Outcome(NamedTuple):
    """How something went: ``status`` is one of the words below; ``text`` has the numbers."""

    status: str
    text: str


def passed(text: str) -> Outcome:
    return Outcome("passed", text)


def failed(text: str) -> Outcome:
    return Outcome("failed", text)


def skipped(text: str) -> Outcome:
    return Outcome("skipped", text)


def compared(met: bool, text: str) -> Outcome:
    """A target of speed: to be known, and no fault of the program when missed."""
    return Outcome("met" if met else "missed", text)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    part: str
    what: str
    status: str
    text: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.part:<8}{self.what:<34}{self.result:<76}{self.seconds:>6.0f} s"

    @property
    def result(self) -> str:
        return f"{self.status}: {self.text}"


@dataclass
class Check:
    """One run of the script.

    Attributes:
        device: ``cuda`` or ``cpu``.
        processes: how many processes train: one for each device.
        device_name: as PyTorch calls it.
        tiny: only show that the script works.
        folder: where everything goes.
        runner: starts the commands.
        references: file with the reference of the digits job; None is the package's own.
        rows: what was found.
        facts: what else ``results.json`` says.
    """

    device: str
    processes: int
    device_name: str
    tiny: bool
    folder: Path
    runner: Runner
    references: Path | None
    facts: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, part: str, what: str, outcome: Outcome, seconds: float) -> None:
        """Note a row, say it, and write ``results.json`` anew."""
        with self._lock:
            row = Row(part, what, outcome.status, outcome.text, round(seconds, 1))
            self.rows.append(row)
            print(row, flush=True)
            self.write(finished=False)

    def attempt(self, part: str, what: str, job: Callable[[], Outcome]) -> None:
        """Do something that gives one row; whatever goes wrong is that row's text."""
        began = time.monotonic()
        try:
            outcome = job()
        except Exception as error:  # one row's fault, whatever it is, leaves the others alone
            outcome = failed(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        self.add(part, what, outcome, time.monotonic() - began)

    def write(self, *, finished: bool) -> None:
        rows = [asdict(row) for row in self.rows]
        values = {**self.facts, "finished": finished, "failed": self.failures, "rows": rows}
        partial = self.folder / "results.json.partial"
        partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.folder / "results.json")

    @property
    def failures(self) -> int:
        return sum(row.status == "failed" for row in self.rows)

    def table(self) -> str:
        """All rows with aligned columns, and their count."""
        cells = [("part", "what", "result", "seconds")]
        cells += [(row.part, row.what, row.result, f"{row.seconds:.0f}") for row in self.rows]
        widths = [max(len(line[column]) for line in cells) for column in range(3)]
        lines = [
            "  ".join([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[3]])
            for line in cells
        ]
        counts = {row.status: 0 for row in self.rows}
        for row in self.rows:
            counts[row.status] += 1
        summary = ", ".join(f"{count} {status}" for status, count in counts.items())
        return "\n".join(
            ["", *lines, "", f"{summary or 'nothing ran'}; all of it in {self.folder}"]
        )

    def nproc(self) -> list[str]:
        """The flag that starts one process for each device; a single one needs no launcher."""
        return ["--nproc", str(self.processes)] if self.processes > 1 else []


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """The events of a kind in a run's ``metrics.jsonl``."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def slug(name: str) -> str:
    """A name as part of a file's."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
