"""Starting and ending a Python that holds PyTorch, transformers and ColossalAI, in less time."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_OMP_PAUSE_HARD = 2


@contextmanager
def without_collecting() -> Iterator[None]:
    """Import within this (or decorate by it) what stays for the life of the process.

    Some 5,000 modules are loaded for a run. The garbage collector walks all that they define again
    and again while they are loaded, in its full collections afterwards, and several times when
    Python ends. Here it waits, and leaves them alone for good: a process that does nothing but
    import took 9.5 s of CPU time instead of 12.5 (Python 3.11, torch 2.14.1).
    """
    if not gc.isenabled():
        yield
        return
    before = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        # Where nothing was imported, what lives is the caller's, and may be garbage some day.
        if len(sys.modules) > before:
            gc.freeze()
        gc.enable()


def end_with_parent(parent: int | None) -> None:
    """Have this process get SIGTERM when its parent ends, however that ends (prctl(2), Linux).

    Args:
        parent: The parent's id; when it is another's by now, this process ends at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def outlive_parent() -> None:
    """Undo `end_with_parent`, for a process that looks for its parent itself and saves first."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0)


def share_cpu(num_processes: int) -> None:
    """Set OMP_NUM_THREADS to the share of each of N processes on this machine, unless it is set.

    Call it before PyTorch is imported, which reads it then.
    """
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // num_processes)))


def keep_threads_awake() -> None:
    """Have the threads of an operator wait a little for the next one also while others sleep.

    gloo's threads copy what they gather with threads of their own. As soon as a process has more
    threads than cores, GCC's OpenMP puts one to sleep after 100 turns in place of 300,000 (libgomp,
    config/linux/wait.h and env.c), and waking it takes longer than a small operator: with zero2 in
    one process of two threads a step of ViT-tiny at 64 px took 817 ms, and so 575. An active policy
    has 1,000 turns there; with no number of turns it would never let a thread sleep. What is set
    already stays. Call it before PyTorch is imported.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ |= {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "300000"}


def end_threads_of_operators() -> bool:
    """End those that share this thread's operators; the next operator starts new ones.

    GCC's OpenMP keeps them for the next operator. A process that is forked does not have them, and
    waits for them for ever at its first operator that is shared out. OpenMP 5.0 can end them:
    ``omp_pause_resource_all``, in GCC 9 and newer.

    Returns:
        Whether a process can be forked now: not where their library is older or was replaced.
    """
    lines = Path("/proc/self/maps").read_text().splitlines()
    libraries = {line.split(maxsplit=5)[5] for line in lines if "libgomp" in line}
    try:
        pauses = [ctypes.CDLL(each).omp_pause_resource_all for each in libraries]
    except (AttributeError, OSError):
        return False
    return all(pause(_OMP_PAUSE_HARD) == 0 for pause in pauses)


def leave(code: int) -> NoReturn:
    """End this process without taking its modules apart, which takes a second and serves nobody.

    Threads are waited for, what was registered with ``atexit`` runs, and the output is flushed, in
    the order in which Python does so, and ``multiprocessing`` in the processes that it forks.

    Args:
        code: The exit code.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BrokenPipeError:
        code = code or 1
    os._exit(code)
