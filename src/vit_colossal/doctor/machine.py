"""Memory, disks, names and the hub, as ``doctor`` sees them; no framework is imported."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vit_colossal.data.sources.request import default_cache_root
from vit_colossal.runtime.memory import free_bytes

Status = Literal["ok", "warn", "fail"]

GIB = 2**30
#: A process with ColossalAI and a small model takes 0.8 GiB; a run's images, logs and checkpoints
#: more than this.
_LITTLE_MEMORY, _LITTLE_DISK = 2 * GIB, 1 * GIB
_HUB_S, _NAME_S = 6, 6


@dataclass(frozen=True)
class Check:
    """One part: ``fail`` keeps training from starting, ``warn`` is worth knowing."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def memory() -> Check:
    """What is free, within a container's own limit."""
    free = free_bytes()
    if free is None:
        return Check("memory", "warn", "cannot be told on this system")
    if free < _LITTLE_MEMORY:
        fix = "close other programs, or use fewer processes and a smaller model"
        return Check("memory", "warn", f"{free / GIB:.1f} GiB free", fix)
    return Check("memory", "ok", f"{free / GIB:.1f} GiB free")


def folders(output: Path) -> Iterator[Check]:
    """Where a run writes, and where images and downloads are kept."""
    home = Path.home() / ".cache"
    home_of_hub = os.environ.get("HF_HOME")
    yield folder("output", output, "name another with --output-dir")
    yield folder(
        "image cache",
        default_cache_root(),
        "set VIT_COLOSSAL_CACHE to another folder",
    )
    yield folder(
        "hub cache",
        Path(home_of_hub).expanduser() if home_of_hub else home / "huggingface",
        "set HF_HOME to another folder",
        needed=False,
    )


def folder(name: str, path: Path, fix: str, *, needed: bool = True) -> Check:
    """Write where it is, or where it would be made, and see how much room there is."""
    nearest = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    try:
        with tempfile.TemporaryFile(dir=nearest):
            free = shutil.disk_usage(nearest).free
    except OSError as error:
        detail = f"{path} cannot be written ({error.strerror})"
        return Check(name, "fail" if needed else "warn", detail, fix)
    if free < _LITTLE_DISK:
        return Check(
            name, "warn", f"{path}: only {free / GIB:.2f} GiB free", f"free some, or {fix}"
        )
    return Check(name, "ok", f"{path} ({free / GIB:.0f} GiB free)")


def hub() -> Check:
    """Whether the model and data hub answers; never fatal, as local data needs none."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Check("hub", "ok", "not asked: HF_HUB_OFFLINE is set, only cached files are used")
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    answer = within(_HUB_S, lambda: _ask(endpoint))
    if answer is None:
        return Check("hub", "ok", f"{endpoint} answers")
    fix = "check the network, the proxy and HF_ENDPOINT; local folders and 'digits' need no hub"
    return Check("hub", "warn", f"{endpoint} cannot be reached ({answer})", fix)


def host_name(resolve: Callable[..., list[Any]] = socket.getaddrinfo) -> Check:
    """Whether this machine's name leads other machines here; one machine by itself needs no name.

    torchrun compares the address of its name with that of the meeting point, and gloo tells the
    other ranks the address of the name. Debian and Ubuntu write 127.0.1.1 beside it.

    Args:
        resolve: as `socket.getaddrinfo`.
    """
    name = socket.gethostname()
    problem = within(_NAME_S, lambda: _leads_nowhere(name, resolve))
    if problem is None:
        return Check("host name", "ok", f"{name} is an address that other machines may know")
    fix = f"for more than one machine, give {name} the address that the others use in /etc/hosts"
    return Check("host name", "warn", f"{name} {problem}", fix)


def _leads_nowhere(name: str, resolve: Callable[..., list[Any]]) -> str | None:
    """What is wrong with a name's first address, which is the one that gloo takes."""
    try:
        address = str(resolve(name, None, proto=socket.IPPROTO_TCP)[0][4][0])
    except OSError as error:
        return f"cannot be resolved ({error.strerror or error})"
    if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return None
    return f"resolves to {address}, so others find themselves: torchrun waits 60 s and fails"


def _ask(endpoint: str) -> str | None:
    """Why the hub does not answer; None if it does."""
    if not endpoint.startswith(("http://", "https://")):
        return "HF_ENDPOINT must start with https://"
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        urllib.request.urlopen(request, timeout=_HUB_S - 1).close()
    except urllib.error.HTTPError:
        return None  # it answers, if only to say no
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return None


def within(seconds: float, ask: Callable[[], str | None]) -> str | None:
    """The answer, or that there is none yet: looking up a name has no time limit of its own."""
    answer: list[str | None] = [f"no answer within {seconds:g} s"]
    thread = threading.Thread(target=lambda: answer.__setitem__(0, ask()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0]
