"""How much memory a process took, and how much is left; importable without ColossalAI."""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

#: mallopt(3): allocations of so many bytes are mapped one by one, and so many free ones at the top
#: of the heap are given back.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_MAPPED_BYTES = 2**20
#: Where glibc's own threshold ends up once tensors of that size were freed (malloc/malloc.c,
#: ``DEFAULT_MMAP_THRESHOLD_MAX``); it trims at twice as much.
_ADAPTED_BYTES = 2**25


def map_large_allocations() -> None:
    """Have glibc give large tensors back to the system as soon as they are freed.

    Left alone it keeps what is below 32 MiB for later, in pieces that fit less and less. It costs
    time, as the system clears each new page. Other C libraries have no such setting.
    """
    _set_allocation(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


def keep_large_allocations() -> None:
    """Have glibc keep them again, as it does of its own after a while."""
    _set_allocation(_M_MMAP_THRESHOLD, _ADAPTED_BYTES)
    _set_allocation(_M_TRIM_THRESHOLD, 2 * _ADAPTED_BYTES)


class HeapUse(ctypes.Structure):
    """mallinfo2(3): all are counts or bytes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def heap_use() -> HeapUse:
    """What glibc's heap has.

    Raises:
        AttributeError: it is older than 2.33, or another C library.
    """
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = HeapUse
    use: HeapUse = mallinfo()
    return use


@contextmanager
def mapping_large_allocations() -> Iterator[None]:
    """As :func:`map_large_allocations` meanwhile, in a process that has run for a while.

    glibc takes what its heap has free before it maps anything, so that is occupied first, in as
    many blocks as may fit, too small to be mapped. Nothing is written to them, so that they take no
    memory. Where glibc does not say what it has free, nothing is occupied.
    """
    map_large_allocations()
    blocks: list[int] = []
    with suppress(OSError, AttributeError):
        libc, size = ctypes.CDLL(None), _MAPPED_BYTES // 2
        libc.malloc.restype = ctypes.c_void_p
        libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
        blocks = [libc.malloc(size) for _ in range(heap_use().fordblks // size)]
    try:
        yield
    finally:
        for block in blocks:
            libc.free(block)
        keep_large_allocations()


def _set_allocation(parameter: int, value: int) -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(parameter, value)


def peak_resident_bytes() -> int:
    """The process's peak resident set, since its start or the last `reset_peak`."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    # No /proc: the peak since the start, in the unit that getrusage(2) has here.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak() -> None:
    """Let the peak start again from the present size; see clear_refs in proc(5)."""
    # Not Linux, or a read-only /proc: the peak stays that of the whole process.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def free_bytes() -> int | None:
    """Memory that processes here may still take, within a container's limit; None: not known.

    What the kernel would give back counts as free, the cache of files for one: in a container's
    use (``memory.current``) it is included, so it is taken off there.
    """
    try:
        free = int(psutil.virtual_memory().available)
    except (OSError, psutil.Error, NotImplementedError):
        return None
    with suppress(OSError, ValueError):  # there is no limit, or no such file
        folder = Path("/sys/fs/cgroup")
        limit, used = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
        pairs = [line.split() for line in (folder / "memory.stat").read_text().splitlines()]
        kept = {name: int(value) for name, value in pairs}
        free = min(free, limit - used + kept["inactive_file"] + kept["active_file"])
    return free
