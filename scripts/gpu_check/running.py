"""Run the project's commands: each with a log of its own, bounded, and with nothing left behind."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]

Argument = str | Path

#: What a launcher around this process may have set, and none of ours may inherit.
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
#: A line that says what went wrong: our own, or the end of a traceback.
_REASON = re.compile(r"^(\[rank\d+\]: *)?(error: .+|[\w.]*(Error|Exception|Interrupt)\b.*)$")
#: Seconds between looks at a process, and at one that is to be killed at a certain moment.
_POLL, _WATCH = 0.2, 0.005


@dataclass(frozen=True)
class Finished:
    """A command that ended.

    Attributes:
        code: its exit code; None when it was ended for taking too long, or never began.
        limit: seconds that it had.
        seconds: how long it took.
        log: what it printed.
    """

    code: int | None
    limit: float
    seconds: float
    log: Path

    def problem(self) -> str:
        """In one line, why it is not what it should be."""
        if self.code is None:
            return f"timed out after {self.limit:.0f} s" if self.limit > 0 else "no time was left"
        lines = [line.strip() for line in self.text().splitlines() if line.strip()]
        reasons = [line for line in lines if _REASON.match(line)] or lines
        how = f"died of {signal.Signals(-self.code).name}" if self.code < 0 else ""
        # The launcher's own line comes last and names a rank; what the rank said is told before.
        said = [line for line in reasons if not line.startswith("error: rank ")] or reasons
        return f"{how or f'exit code {self.code}'}: {said[-1][:200]}" if said else how

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


class Runner:
    """Starts commands of this checkout with the same environment.

    Attributes:
        jobs: how many run at a time in ``together``.
        deadline: of ``time.monotonic``, when whatever runs is ended.
    """

    def __init__(self, folder: Path, device: str, jobs: int) -> None:
        self.folder, self.jobs, self.deadline = folder, jobs, float("inf")
        self.environment = _environment(folder, device, jobs)
        self._over = threading.Event()
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def run(
        self,
        name: str,
        arguments: Sequence[Argument],
        *,
        kill_when: Callable[[], bool] | None = None,
        changes: Mapping[str, str] | None = None,
    ) -> Finished:
        """Run ``python ARGUMENTS`` in the project's root.

        Args:
            name: of the log.
            arguments: of Python.
            kill_when: asked all the time; once it says so, all processes get SIGKILL.
            changes: of the environment.
        """
        command = [sys.executable, *map(str, arguments)]
        log, began = self.folder / "logs" / f"{name}.log", time.monotonic()
        limit = self.deadline - began
        with log.open("w", encoding="utf-8") as stream:
            stream.write(f"$ {shlex.join(command)}\n")
            stream.flush()
            if limit <= 0:
                return Finished(None, limit, 0.0, log)
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**self.environment, **(changes or {})},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = self._wait(process, kill_when)
            finally:
                _kill(process)
        return Finished(code, limit, time.monotonic() - began, log)

    def together(self, jobs: Sequence[Callable[[], None]]) -> None:
        """Do all of it, so many at a time as ``jobs`` allows."""
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                for future in [pool.submit(job) for job in jobs]:
                    future.result()
            except BaseException:
                self._over.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _wait(
        self, process: subprocess.Popen[bytes], kill_when: Callable[[], bool] | None
    ) -> int | None:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(_WATCH if kill_when else _POLL)
            if kill_when is not None and kill_when():
                _kill(process)
                return process.wait()
            if self._over.is_set():
                _kill(process)
                return process.wait()
            if time.monotonic() > self.deadline:
                return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End it and all that it started: the ranks of a launcher have sessions of their own."""
    with suppress(psutil.NoSuchProcess):
        if process.poll() is None:
            top = psutil.Process(process.pid)
            for one in [top, *top.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
    process.wait()


def _environment(folder: Path, device: str, jobs: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _LAUNCHER}
    cache, cores = folder / "cache", len(os.sched_getaffinity(0))
    python_path = [str(ROOT / "src"), *filter(None, [kept.get("PYTHONPATH")])]
    binaries = [str(Path(sys.executable).parent), kept.get("PATH", "")]
    return {
        # One machine: the ranks need no other interface.
        "GLOO_SOCKET_IFNAME": "lo",
        # As the project's own scripts have it on a CPU, where the ranks share few cores.
        "OMP_NUM_THREADS": "1" if device == "cpu" else str(max(1, min(8, cores // jobs))),
        **kept,
        "PYTHONPATH": os.pathsep.join(python_path),
        "PATH": os.pathsep.join(binaries),
        "PYTHONUNBUFFERED": "1",
        # Nothing is fetched, and nothing of earlier runs is used.
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "VIT_COLOSSAL_CACHE": str(cache / "images"),
        "HF_DATASETS_CACHE": str(cache / "datasets"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
    }
