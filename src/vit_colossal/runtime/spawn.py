"""Start N local processes, pass signals on to them, and say which one failed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess, SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import psutil
import torch
import torch.distributed as dist

from vit_colossal.errors import ANSWERS, ExitCode
from vit_colossal.runtime.interpreter import (
    end_threads_of_operators,
    end_with_parent,
    share_cpu,
)

#: What a process runs: it returns its exit code. It is pickled where processes cannot be forked.
Command = Callable[[], int]

#: Passed on to the processes, which finish their step and save.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# A killed process takes its peers down within milliseconds.
_MOURNING_S = 1.0
# How long the peers of a failed process may take to end once they are asked to.
_GRACE_S = 30.0


@dataclass(frozen=True)
class Program:
    """Another Python program, as a command.

    Attributes:
        arguments: What follows ``python`` on its command line.
    """

    arguments: tuple[str, ...]

    def __call__(self) -> int:
        os.execv(sys.executable, [sys.executable, *self.arguments])


class _Ended(NamedTuple):
    rank: int
    pid: int
    code: int
    time: float


def launch(command: Command, num_processes: int) -> int:
    """Run a command in ``num_processes`` processes on this machine.

    They are forked where that is possible, so that they have all that was imported here; where
    CUDA is, which does not survive it, they are started anew. They meet on the loopback interface.
    SIGTERM, SIGINT and SIGUSR1 are passed on; whatever is left in the end is killed. They end, too,
    when this process is gone: at once while they start, and after saving while they train.

    Returns:
        0; 143 or 130 when a signal ended it; else the exit code of the first process that failed
        (1 when it died of a signal).
    """
    share_cpu(num_processes)
    # Peers on one machine need no other interface, and none should be reachable from outside.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # The processes run this very code, also from a checkout that is not installed.
    here = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    listener = socket.create_server(("127.0.0.1", 0), backlog=num_processes)
    port = listener.getsockname()[1]
    forks = isinstance(command, Program) or (can_fork() and end_threads_of_operators())
    kind: type[BaseProcess] = ForkProcess if forks else SpawnProcess
    workers = [
        kind(target=_work, args=(command, _place(rank, num_processes, port)))
        for rank in range(num_processes)
    ]
    with _passing_on(workers) as received:
        try:
            _start(workers)
            for number in received:
                _send(number, workers)
            with _store(listener):
                failed = _wait(workers)
        finally:
            _kill(workers)
    if received and failed is not None:
        return ExitCode.after(received[0])
    return ExitCode.OK if failed is None else _report(failed)


@contextmanager
def _store(listener: socket.socket) -> Iterator[None]:
    """Where the processes meet, once all have been started; who came earlier has waited.

    The store has a thread that looks up the name of each that comes, with a lock of the C library
    held. A process forked at that moment waits for that lock for ever (glibc 2.36).
    """
    port = listener.getsockname()[1]
    store = dist.TCPStore(
        "127.0.0.1",
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    yield
    del store


def _start(workers: Sequence[BaseProcess]) -> None:
    """Start all, none of which gets a signal before it has handlers of its own."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        for worker in workers:
            worker.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def can_fork() -> bool:
    """Whether this process may be forked: asking whether there is CUDA already starts its driver.

    Beside Linux, libraries of the system do not survive it.
    """
    return sys.platform == "linux" and not torch.cuda.is_available()


def _place(rank: int, num_processes: int, port: int) -> dict[str, str]:
    """torchrun's variables."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        # The store is the launcher's: no rank has to open a port that may be taken by then.
        "TORCHELASTIC_USE_AGENT_STORE": str(True),
    }


def _work(command: Command, place: dict[str, str]) -> None:
    """What each process does."""
    parent = multiprocessing.parent_process()
    os.setsid()  # the terminal's Ctrl-C reaches the launcher alone, which passes it on
    end_with_parent(None if parent is None else parent.pid)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    os.environ.update(place)
    threads = os.environ["OMP_NUM_THREADS"].partition(",")[0]  # a list is for nested regions
    if threads.isdecimal() and int(threads):
        torch.set_num_threads(int(threads))
    try:
        code = command()
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    sys.exit(code)


@contextmanager
def _passing_on(workers: Sequence[BaseProcess]) -> Iterator[list[int]]:
    """Pass signals on to the workers; gives the numbers of those that came."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if workers[-1].pid is not None:  # else it is sent once all have been started
            _send(number, workers)

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(number: int, workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        if worker.pid is not None and worker.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, number)


def _kill(workers: Iterable[BaseProcess]) -> None:
    """What is left of the workers, with their loader processes; other children are not ours."""
    for worker in workers:
        if worker.pid is None or not worker.is_alive():
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(worker.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        worker.kill()
        worker.join()


def _wait(workers: Sequence[BaseProcess]) -> _Ended | None:
    """Wait for all; once one fails, the others are asked to end, and killed some time later.

    Returns:
        The process that failed first, if any did.
    """
    running = dict(enumerate(workers))
    ends = {rank: _end_of(worker) for rank, worker in running.items()}
    failures: list[_Ended] = []
    measures: list[tuple[float, int]] = []  # when to send which signal
    while running:
        pause = max(0.0, measures[0][0] - time.monotonic()) if measures else None
        wait([ends[rank] for rank in running], pause)
        now = time.monotonic()
        if measures and now >= measures[0][0]:
            _send(measures.pop(0)[1], running.values())
        ended = {rank: worker for rank, worker in running.items() if worker.exitcode is not None}
        for rank, worker in ended.items():
            del running[rank]
            _close_end(ends[rank], worker)
            if worker.exitcode:
                failures.append(_Ended(rank, worker.pid or 0, worker.exitcode, now))
        if failures and len(failures) == len([rank for rank in ended if workers[rank].exitcode]):
            # The first ones: the others will hardly end well.
            measures = [
                (now + _MOURNING_S, signal.SIGTERM),
                (now + _MOURNING_S + _GRACE_S, signal.SIGKILL),
            ]
    return _to_blame(failures)


def _end_of(worker: BaseProcess) -> int:
    """A descriptor that becomes readable when a process ends.

    Not multiprocessing's own where there is another: a process that becomes another program closes
    that at once, and whoever waits for it goes round in circles from then on. One that ended while
    the next ones were started may have been collected by then, and has no number any more.
    """
    if sys.platform != "linux" or worker.exitcode is not None:
        return worker.sentinel
    return os.pidfd_open(worker.pid or 0)


def _close_end(end: int, worker: BaseProcess) -> None:
    if end != worker.sentinel:
        os.close(end)


def _to_blame(failures: list[_Ended]) -> _Ended | None:
    """The first to fail; of those that ended together, one that was killed and not its mourners."""
    if not failures:
        return None
    together = [failure for failure in failures if failure.time <= failures[0].time + _MOURNING_S]
    killed = [failure for failure in together if failure.code < 0]
    return (killed or failures)[0]


def _report(failed: _Ended) -> int:
    """One line on the process that failed first; its own output already said why."""
    if failed.code < 0:
        name = signal.Signals(-failed.code).name
        print(f"error: rank {failed.rank} (pid {failed.pid}) was killed by {name}", file=sys.stderr)
        return ExitCode.TERMINATED if failed.code == -signal.SIGTERM else ExitCode.FAILED
    # These are answers, which the processes have given in their own words.
    if failed.code not in ANSWERS:
        print(
            f"error: rank {failed.rank} (pid {failed.pid}) failed with exit code {failed.code}",
            file=sys.stderr,
        )
    return failed.code
