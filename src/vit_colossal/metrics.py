"""What a run reports: log lines, metrics.jsonl, TensorBoard, a progress bar. One rank holds it."""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

logger = logging.getLogger("vit_colossal")


class Reporter(Protocol):
    """Where events go."""

    def event(self, kind: str, step: int, epoch: float, **values: float | int | str) -> None: ...

    def progress(self, steps: int, **values: str) -> None: ...

    def start_epoch(self, epoch: int, epochs: int, steps: int, done: int) -> None: ...

    def close(self) -> None: ...


class NullReporter:
    """For the ranks that do not own the loss."""

    def event(self, kind: str, step: int, epoch: float, **values: float | int | str) -> None: ...

    def progress(self, steps: int, **values: str) -> None: ...

    def start_epoch(self, epoch: int, epochs: int, steps: int, done: int) -> None: ...

    def close(self) -> None: ...


class RunReporter:
    """Writes ``metrics.jsonl`` (one JSON object a line, flushed), TensorBoard scalars and the bar.

    The bar only appears on a terminal; a log file gets plain lines.
    """

    def __init__(self, run_dir: Path, *, tensorboard: bool) -> None:
        self._start = time.monotonic()
        self._file = (run_dir / "metrics.jsonl").open("a", encoding="utf-8")
        self._board = _summary_writer(run_dir / "tensorboard") if tensorboard else None
        self._bar: tqdm[Any] | None = None

    def event(self, kind: str, step: int, epoch: float, **values: float | int | str) -> None:
        elapsed = round(time.monotonic() - self._start, 3)
        record = {"event": kind, "step": step, "epoch": round(epoch, 4), "elapsed": elapsed}
        self._file.write(json.dumps({**record, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def start_epoch(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        self._close_bar()
        if sys.stderr.isatty():
            self._bar = tqdm(
                desc=f"epoch {epoch + 1}/{epochs}", total=steps, initial=done, dynamic_ncols=True
            )

    def progress(self, steps: int, **values: str) -> None:
        if self._bar is not None:
            if values:
                self._bar.set_postfix(values, refresh=False)
            self._bar.update(steps)

    def close(self) -> None:
        self._close_bar()
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def keep_events(file: Path, last_step: int) -> None:
    """Drop the events after ``last_step``, which a resumed run will write again."""
    kept = []
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                event = json.loads(line)
            except ValueError:  # a killed run may leave half a line
                continue
            if event["step"] <= last_step and event["event"] != "end":
                kept.append(line + "\n")
    file.write_text("".join(kept), encoding="utf-8")


def _summary_writer(path: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("tensorboard is not installed: metrics.jsonl only")
        return None
    return SummaryWriter(str(path))


class TqdmHandler(logging.Handler):
    """Log lines that do not tear the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(
            self.format(record),
            file=sys.stderr if record.levelno >= logging.WARNING else sys.stdout,
        )
        sys.stdout.flush()


def peak_memory_bytes(device: torch.device) -> int:
    """This rank's peak: allocated device memory on CUDA, resident set on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
