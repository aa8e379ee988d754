"""Ranks on hosts of their own, forked from one process that has imported all: see `two_hosts`.

Reads requests as JSON lines: ``start`` a rank, or ``poll`` one; answers each with a line.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from vit_colossal import runtime
from vit_colossal.commands.run import run_command

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWNET = 0x20000, 0x4000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
_LIBC = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _mount(source: str, target: str, flags: int) -> None:
    names = source.encode(), target.encode()
    _checked(_LIBC.mount(*names, None, ctypes.c_ulong(flags), None))


def enter(host: dict[str, str]) -> None:
    """Move this process to a host: its network, name, hosts file and disk."""
    with Path("/var/run/netns", host["namespace"]).open() as file:
        _checked(_LIBC.setns(file.fileno(), CLONE_NEWNET))
    _checked(_LIBC.unshare(CLONE_NEWNS | CLONE_NEWUTS))
    _mount("none", "/", MS_REC | MS_PRIVATE)
    _mount(f"{host['files']}/hosts", "/etc/hosts", MS_BIND)
    _mount(host["files"], host["disk"], MS_BIND)
    socket.sethostname(host["name"])
    os.chdir(host["disk"])


def rank(job: dict[str, Any]) -> int:
    """What each rank does."""
    os.setsid()
    for number, path in enumerate(("/dev/null", job["stdout"], job["stderr"])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), number)
    enter(job["host"])
    os.environ.update(job["env"])
    command, *flags = job["command"]
    return run_command(command, flags, "vit-colossal")


def start(job: dict[str, Any]) -> int:
    """Fork a rank; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = rank(job)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def poll(pid: int) -> int | None:
    """The exit code of a rank; None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


if __name__ == "__main__":
    runtime.activate("cpu")
    for name in ("strategies.ddp", "strategies.hybrid", "training.fit", "trained.evaluate"):
        import_module(f"vit_colossal.{name}")
    for name in ("training.run", "commands.train", "commands.eval", "commands.start"):
        import_module(f"vit_colossal.{name}")
    import_module("datasets")
    for line in sys.stdin:
        request = json.loads(line)
        answer = start(request["start"]) if "start" in request else poll(request["poll"])
        print(json.dumps(answer), flush=True)
