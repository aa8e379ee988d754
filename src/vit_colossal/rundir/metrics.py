"""What a run reports: metrics.jsonl, TensorBoard, trackers, a progress bar. One rank holds it."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from tqdm import tqdm

from vit_colossal.durable import write_durably
from vit_colossal.plan import run_folder
from vit_colossal.rundir import events
from vit_colossal.rundir.trackers import Tracker, close_all, log_to
from vit_colossal.runtime.memory import peak_resident_bytes

logger = logging.getLogger("vit_colossal")

#: Without tqdm's own clock and rate: the words have both, and all of it has to fit 80 columns.
_BAR = "{desc} {bar} {n_fmt}/{total_fmt}{postfix}"


class Reporter(Protocol):
    """Where events go. As a context, it is closed at the end, also of a run that fails."""

    @property
    def shows_steps(self) -> bool: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None: ...

    def event(self, kind: str, step: int, epoch: float, **values: float | int | str) -> None: ...

    def progress(self, steps: int, words: str = "") -> None: ...

    def start_epoch(self, epoch: int, epochs: int, steps: int, done: int) -> None: ...


class NullReporter:
    """For the ranks that do not own the loss."""

    shows_steps = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None: ...

    def event(self, kind: str, step: int, epoch: float, **values: float | int | str) -> None: ...

    def progress(self, steps: int, words: str = "") -> None: ...

    def start_epoch(self, epoch: int, epochs: int, steps: int, done: int) -> None: ...


class RunReporter:
    """Writes ``metrics.jsonl`` (one JSON object a line, flushed), TensorBoard scalars and the bar.

    The bar only appears on a terminal; a log file gets plain lines.
    """

    def __init__(
        self, run_dir: Path, *, tensorboard: bool, trackers: Sequence[Tracker] = ()
    ) -> None:
        """Open them in a run directory; the clock of a resumed run goes on where it stood."""
        path = run_dir / run_folder.METRICS
        self._start = time.monotonic() - _last_elapsed(path)
        self._file = path.open("a", encoding="utf-8")
        self._board = _summary_writer(run_dir / run_folder.TENSORBOARD) if tensorboard else None
        self._trackers = list(trackers)
        self._bar: tqdm[Any] | None = None
        self._words = ""

    @property
    def shows_steps(self) -> bool:
        """Whether the reader of the log lines sees the bar too."""
        return self._bar is not None and sys.stdout.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.close(failed=kind is not None)

    def event(self, kind: str, step: int, epoch: float, **values: float | int | str) -> None:
        if kind == "eval":
            self._close_bar()  # what is said of an evaluation stands below its epoch
        elapsed = round(time.monotonic() - self._start, 3)
        place = {"step": step, "epoch": round(epoch, 4), "elapsed": elapsed}
        self._file.write(events.as_line({"event": kind, **place, **values}) + "\n")
        self._file.flush()
        numbers = {f"{kind}/{k}": v for k, v in values.items() if isinstance(v, (int, float))}
        log_to(self._trackers, numbers, step)
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)

    def start_epoch(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        self._close_bar()
        if sys.stderr.isatty():
            self._bar = tqdm(
                desc=f"epoch {epoch + 1}/{epochs}",
                total=steps,
                initial=done,
                dynamic_ncols=True,
                bar_format=_BAR,
                postfix=self._words,
            )

    def progress(self, steps: int, words: str = "") -> None:
        if self._bar is not None:
            if words:
                self._words = words  # the next epoch's bar begins with them
                self._bar.set_postfix_str(words, refresh=False)
            self._bar.update(steps)

    def close(self, *, failed: bool = False) -> None:
        """Flush and close everything; ``failed`` is what the trackers are told."""
        self._close_bar()
        self._file.close()
        if self._board is not None:
            self._board.close()
        close_all(self._trackers, failed=failed)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def keep_events(file: Path, last_step: int) -> None:
    """Drop the events after ``last_step``, which a resumed run will write again."""
    kept = []
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                event = json.loads(line)
            except ValueError:  # a killed run may leave half a line
                continue
            if event["step"] <= last_step and event["event"] not in ("stop", "end"):
                kept.append(line + "\n")
    write_durably(file, "".join(kept))


def _last_elapsed(path: Path) -> float:
    """Seconds that an earlier part of the run took, by its last event."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return float(json.loads(lines[-1]).get("elapsed", 0)) if lines else 0.0


def _summary_writer(path: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("tensorboard is not installed: metrics.jsonl only")
        return None
    return SummaryWriter(str(path))


def peak_memory_bytes(device: torch.device) -> int:
    """This rank's peak: allocated device memory on CUDA, resident set on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()
