"""Start N local processes through torch's elastic launcher, and say which one failed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import uuid
from pathlib import Path

import psutil
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from vit_colossal.errors import ANSWERS, ExitCode


def launch(arguments: list[str], num_processes: int) -> int:
    """Run ``python ARGUMENTS`` in ``num_processes`` processes on this machine.

    The processes meet on the loopback interface. CPU threads are shared out evenly unless
    OMP_NUM_THREADS says otherwise. SIGTERM, SIGINT and SIGUSR1 are passed on, so that the
    processes finish their step and save; whatever is left of them in the end is killed.

    Returns:
        0; 143 or 130 when a signal ended it; else the exit code of the first process that failed
        (1 when it died of a signal).
    """
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // num_processes)))
    # Peers on one machine need no other interface, and none should be reachable from outside.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # The processes run this very code, also from a checkout that is not installed.
    here = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(),
    )
    # Its own report repeats, in 45 lines, what one line below says.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # The launcher passes SIGTERM and SIGINT on by itself, but would die of this one.
    before = signal.signal(signal.SIGUSR1, lambda number, frame: _pass_on(number))
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        return _report(error)
    except SignalException as error:
        return ExitCode.after(error.sigval)
    finally:
        signal.signal(signal.SIGUSR1, before)
        _pass_on(signal.SIGKILL)
    return 0


def _pass_on(number: int) -> None:
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(number)


def _report(error: ChildFailedError) -> int:
    """One line on the process that failed first; its own output already said why."""
    failures = sorted(error.failures.items(), key=lambda item: item[1].timestamp)
    # A killed process takes its peers down within milliseconds: name it, not the first mourner.
    # Those that torch's launcher ends after a failure, by SIGTERM and half a minute later by
    # SIGKILL, are listed too (since a release between 2.5 and 2.11), behind the one that failed.
    soon = failures[0][1].timestamp + 1
    killed = [
        item
        for item in failures
        if item[1].exitcode < 0
        and item[1].exitcode != -signal.SIGTERM
        and item[1].timestamp <= soon
    ]
    rank, failure = (killed or failures)[0]
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        print(f"error: rank {rank} (pid {failure.pid}) was killed by {name}", file=sys.stderr)
        return ExitCode.FAILED
    # These are answers, which the processes have given in their own words.
    if failure.exitcode not in ANSWERS:
        print(
            f"error: rank {rank} (pid {failure.pid}) failed with exit code {failure.exitcode}",
            file=sys.stderr,
        )
    return failure.exitcode
