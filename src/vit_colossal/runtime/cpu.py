"""What this machine's CPU can do."""

from __future__ import annotations

import platform
from contextlib import suppress
from pathlib import Path

#: Linux' names for what multiplies matrices in bf16, the fastest first, and those people know.
_BF16_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}


def bf16_unit(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The fastest unit that multiplies matrices in bf16; None where none is known.

    Args:
        cpuinfo: Linux' description of the processors.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return next((name for flag, name in _BF16_UNITS.items() if flag in flags), None)


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What the processor is called, or its architecture where the system does not tell."""
    with suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
