"""What a run directory holds, read as far as it can be: died or damaged, it is shown too."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from vit_colossal.plan import run_folder
from vit_colossal.rundir.events import EndEvent, Event, StopEvent, parse_events

#: A folder with one of these is a run.
MARKS = (run_folder.CONFIG, run_folder.METRICS)

_SIGNALS = {int(number) for number in signal.Signals}


def read_mapping(path: Path, notes: list[str]) -> dict[str, Any]:
    """A YAML or JSON mapping; empty, and a line in ``notes``, where it is none."""
    try:
        text = text_of(path)
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        missing = isinstance(error, FileNotFoundError)
        notes.append(f"{path.name} is {'missing' if missing else 'unreadable'}")
        return {}
    if not isinstance(values, dict):
        notes.append(f"{path.name} holds no names and values")
        return {}
    return {str(key): value for key, value in values.items()}


def text_of(path: Path, errors: str = "strict") -> str:
    """What a file holds.

    Raises:
        OSError: it cannot be read, or is a pipe, which would be waited for.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is no file")
    return path.read_text(encoding="utf-8", errors=errors)


def read_events(path: Path, notes: list[str]) -> tuple[list[Event], datetime | None]:
    """The events of metrics.jsonl, and when it was written last; what is wrong, in ``notes``."""
    try:
        text = text_of(path, errors="replace")
        written = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        notes.append(f"{path.name} is {'missing' if missing else 'unreadable'}")
        return [], None
    events, others = parse_events(text.splitlines())
    if others:
        notes.append(
            f"{path.name}: lines that are no events, as a killed run leaves them: {others}"
        )
    return events, written


def state_of(events: Sequence[Event], written: datetime | None) -> tuple[str, str]:
    """``finished``, ``stopped`` or ``unfinished``, and a sentence that says more.

    Args:
        events: of metrics.jsonl, in order.
        written: when that was written last.
    """
    last = events[-1] if events else None
    if isinstance(last, EndEvent):
        return "finished", f"finished after step {last.step}"
    if isinstance(last, StopEvent):
        name = signal.Signals(last.signal).name if last.signal in _SIGNALS else last.signal
        return "stopped", f"stopped by {name} after step {last.step}; --resume auto goes on"
    if last is None or written is None:
        return "unfinished", "no event yet: it is starting, or failed before its first"
    when = written.strftime("%Y-%m-%d %H:%M:%S %Z")
    return "unfinished", f"no end: at step {last.step} on {when}, running then or ended since"
