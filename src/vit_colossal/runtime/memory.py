"""How much memory a process took; importable without ColossalAI."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path


def peak_resident_bytes() -> int:
    """The process's peak resident set, since its start or the last `_reset_peak`."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    # No /proc: the peak since the start, in the unit that getrusage(2) has here.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
