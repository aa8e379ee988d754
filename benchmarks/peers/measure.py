"""What the peers share: their flags, their clock and the file they leave."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist


def read_flags(description: str, arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True, help="directory with the initial weights")
    parser.add_argument("--images", required=True, help="uint8 [N, 3, H, W] as .npy")
    parser.add_argument("--labels", required=True, help="int64 [N] as .npy")
    parser.add_argument("--in-memory", action="store_true", help="read all images up front")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch-size", type=int, required=True, help="samples per process")
    parser.add_argument("--steps", type=int, required=True, help="steps that are timed")
    parser.add_argument("--warmup-steps", type=int, default=3, help="steps before them")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--clip-grad-norm", type=float, default=0.0, help="0: off")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--grad-checkpoint", action="store_true")
    parser.add_argument("--compile", action="store_true", help="each encoder layer")
    parser.add_argument("--alone", action="store_true", help="without the group there is")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--keep-losses", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args(arguments)


class Stopwatch:
    """Call ``step_done`` after every step: it keeps losses and times, and never waits for a device.

    ``warmup`` must be at least 1.
    """

    def __init__(self, device: str, warmup: int, keep_losses: int) -> None:
        self.device, self.warmup, self.keep_losses = device, warmup, keep_losses
        self.marks: list[float | torch.cuda.Event] = []
        self.losses: list[torch.Tensor] = []
        self.first_step_at = self.began = 0.0
        self.steps = 0

    def step_done(self, loss: torch.Tensor) -> None:
        self.steps += 1
        if len(self.losses) < self.keep_losses:
            self.losses.append(loss.detach().float())
        if self.steps == 1:
            self._synchronize()
            self.first_step_at = time.time()
        if self.steps == self.warmup:
            self._synchronize()
            if dist.is_initialized():
                dist.barrier()
            self.began = time.perf_counter()
        if self.steps >= self.warmup:
            self.marks.append(self._mark())

    def result(self) -> dict[str, object]:
        """The numbers of all processes; every process has to call this."""
        self._synchronize()
        window = time.perf_counter() - self.began
        mine = {
            "losses": [loss.item() for loss in self.losses],
            "step_seconds": [self._seconds(begin, end) for begin, end in pairwise(self.marks)],
            "window_seconds": window,
            "first_step_at": self.first_step_at,
            "peak_memory_bytes": peak_memory_bytes(self.device),
        }
        ranks = [mine]
        if dist.is_initialized():
            ranks = [{} for _ in range(dist.get_world_size())]
            dist.all_gather_object(ranks, mine)
        columns = zip(*(rank["losses"] for rank in ranks), strict=True)
        return {
            **mine,
            "losses": [sum(column) / len(column) for column in columns],
            "window_seconds": max(rank["window_seconds"] for rank in ranks),
            "first_step_at": max(rank["first_step_at"] for rank in ranks),
            "peak_memory_bytes": [rank["peak_memory_bytes"] for rank in ranks],
        }

    def _mark(self) -> float | torch.cuda.Event:
        if self.device == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self, begin: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
        return end - begin if self.device == "cpu" else begin.elapsed_time(end) / 1e3

    def _synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def peak_memory_bytes(device: str) -> int:
    """Allocated device memory, or the resident set: getrusage would count the parent's too."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def run_and_report(work: Callable[[argparse.Namespace], dict[str, object]], about: str) -> None:
    """Run a peer; rank 0 writes what it found, and any rank what went wrong."""
    flags = read_flags(about)
    try:
        found = work(flags)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, torch.OutOfMemoryError):
            reason = f"out of memory: {reason}"
        write(flags.output, {"error": reason})
        raise
    if os.environ.get("RANK", "0") == "0":
        write(flags.output, found)


def write(path: Path, values: dict[str, object]) -> None:
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(values))
    partial.replace(path)
