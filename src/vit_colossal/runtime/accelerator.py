"""The CPU as an accelerator that ColossalAI's plugins accept.

ColossalAI's own ``CpuAccelerator`` raises from most of its methods, and its name ``"cpu"`` is
refused by ZeRO and read as "offloaded" by Gemini. `GlooAccelerator` answers every query truthfully
for a host whose ranks are processes that talk over gloo.
"""

from __future__ import annotations

import platform
import resource
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import psutil
import torch
from colossalai.accelerator import BaseAccelerator

from vit_colossal.runtime.memory import peak_resident_bytes, reset_peak

CPU = torch.device("cpu")


class CpuStream(torch.Stream):
    """The one stream of a CPU: work is done when the call returns, so waiting is nothing to do.

    It has to be a real ``torch.Stream``: ``Tensor.record_stream`` accepts nothing else.
    """

    def __new__(cls) -> Self:
        return super().__new__(cls, device="cpu")

    def wait_stream(self, stream: torch.Stream) -> None:
        """Return at once: the other stream has no work left either."""

    def wait_event(self, event: Any) -> None:
        """Return at once: an event is complete as soon as it is recorded."""

    def record_event(self, event: Any = None) -> Any:
        """Record ``event``, or a new one, and return it."""
        event = event or CpuEvent()
        event.record(self)
        return event

    def synchronize(self) -> None:
        """Return at once: nothing is queued."""

    def query(self) -> bool:
        """Whether all work is done: always."""
        return True


class CpuEvent:
    """A moment in this process's time, with the interface of a device event."""

    def __init__(self) -> None:
        self._seconds: float | None = None

    def record(self, stream: torch.Stream | None = None) -> None:
        """Note the present time."""
        self._seconds = time.perf_counter()

    def wait(self, stream: torch.Stream | None = None) -> None:
        """Return at once: work before the event is done."""

    def synchronize(self) -> None:
        """Return at once: work before the event is done."""

    def query(self) -> bool:
        """Whether the event has happened: always, as for an unrecorded device event."""
        return True

    def elapsed_time(self, end: CpuEvent) -> float:
        """Milliseconds from this event to ``end``.

        Raises:
            RuntimeError: One of the two was never recorded.
        """
        if self._seconds is None or end._seconds is None:
            raise RuntimeError("both events must be recorded before their distance is asked for")
        return (end._seconds - self._seconds) * 1000.0


@dataclass(frozen=True)
class CpuProperties:
    """What ``get_device_properties`` tells about the host; memory in bytes."""

    name: str
    total_memory: int
    multi_processor_count: int


def _resident_bytes() -> int:
    return psutil.Process().memory_info().rss


class GlooAccelerator(BaseAccelerator):
    """The host's CPU under ColossalAI's accelerator interface.

    It is named ``"npu"``, the one name that is right everywhere upstream compares it: ZeRO's sanity
    check accepts it, Gemini does not take it for "offloaded to the CPU" and refuses the "auto"
    placement, which needs device memory statistics, and nobody takes it for CUDA. Tensors live on
    ``torch.device("cpu")`` all the same. ``device`` arguments are accepted and ignored: there is
    one device. "Memory" is the process's resident set, in bytes.
    """

    support_set_device = False

    def __init__(self) -> None:
        super().__init__(name="npu", communication_backend="gloo", is_synchronous=True)
        self._stream = CpuStream()

    # --- device ---------------------------------------------------------------------------------

    def get_version(self) -> str:
        """No toolkit version: empty."""
        return ""

    def get_current_device(self) -> torch.device:
        """The CPU."""
        return CPU

    def current_device(self) -> torch.device:
        """The CPU; no index, because PyTorch reads a bare integer as a CUDA device."""
        return CPU

    def set_device(self, device: torch.device | int | None = None) -> None:
        """Nothing to bind: there is one device."""

    def get_device_name(self, device: Any = None) -> str:
        """The processor's name, or its architecture where the system does not tell."""
        return platform.processor() or platform.machine()

    def synchronize(self, device: Any = None) -> None:
        """Return at once: nothing is queued."""

    def is_available(self) -> bool:
        """Always."""
        return True

    def device_count(self) -> int:
        """One."""
        return 1

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        """(0, 0): below every CUDA compute capability that could be asked for."""
        return (0, 0)

    def get_device_properties(self, device: Any = None) -> CpuProperties:
        """Name, memory in bytes and number of logical processors of the host."""
        total = psutil.virtual_memory().total
        return CpuProperties(self.get_device_name(), total, psutil.cpu_count() or 1)

    def utilization(self, device: Any = None) -> int:
        """Percent of the host's CPU time in use since the last call."""
        return round(psutil.cpu_percent())

    # --- random numbers: the device's generator is the CPU's -------------------------------------

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        """State of the CPU generator, a byte tensor."""
        return torch.get_rng_state()

    def get_rng_state_all(self) -> list[torch.Tensor]:
        """States of all devices' generators: one."""
        return [torch.get_rng_state()]

    def set_rng_state(self, new_state: torch.Tensor, device: Any = None) -> None:
        """Put the CPU generator into ``new_state``."""
        torch.set_rng_state(new_state)

    def set_rng_state_all(self, new_states: list[torch.Tensor]) -> None:
        """Put each device's generator into its state: ``new_states`` holds one."""
        (state,) = new_states
        torch.set_rng_state(state)

    def manual_seed(self, seed: int) -> None:
        """Seed the CPU generator."""
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        """Seed the CPU generator."""
        torch.manual_seed(seed)

    def seed(self) -> None:
        """Seed the CPU generator from the system's entropy."""
        torch.seed()

    def seed_all(self) -> None:
        """Seed the CPU generator from the system's entropy."""
        torch.seed()

    def initial_seed(self) -> int:
        """The seed that the CPU generator started from."""
        return torch.initial_seed()

    # --- memory ---------------------------------------------------------------------------------

    def empty_cache(self) -> None:
        """Nothing to release: PyTorch caches no host memory."""

    def memory_stats(self, device: Any = None) -> dict[str, Any]:
        """Present and peak resident bytes, under the keys that CUDA uses for its allocator."""
        return {
            "allocated_bytes.all.current": _resident_bytes(),
            "allocated_bytes.all.peak": peak_resident_bytes(),
        }

    def memory_summary(self, device: Any = None, abbreviated: bool = False) -> str:
        """Present and peak resident set in one line."""
        now, peak = _resident_bytes() / 2**20, peak_resident_bytes() / 2**20
        return f"resident set: {now:.0f} MiB now, {peak:.0f} MiB at its peak"

    def memory_snapshot(self) -> list[dict[str, Any]]:
        """No allocator segments to list: empty."""
        return []

    def memory_allocated(self, device: Any = None) -> int:
        """Resident bytes of this process."""
        return _resident_bytes()

    def max_memory_allocated(self, device: Any = None) -> int:
        """Peak resident bytes of this process."""
        return peak_resident_bytes()

    def reset_max_memory_allocated(self, device: Any = None) -> None:
        """Let the peak start again from the present size (Linux only; else no effect)."""
        reset_peak()

    def reset_max_memory_cached(self, device: Any = None) -> None:
        """Let the peak start again from the present size (Linux only; else no effect)."""
        reset_peak()

    def memory_reserved(self, device: Any = None) -> int:
        """Resident bytes of this process."""
        return _resident_bytes()

    def max_memory_reserved(self, device: Any = None) -> int:
        """Peak resident bytes of this process."""
        return peak_resident_bytes()

    def set_per_process_memory_fraction(self, fraction: float, device: Any = None) -> None:
        """Limit this process's data segment to ``fraction`` of the host's memory."""
        limit = int(psutil.virtual_memory().total * fraction)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        """Let the peak start again from the present size (Linux only; else no effect)."""
        reset_peak()

    # --- streams and events ---------------------------------------------------------------------

    def Stream(self, device: Any = None, priority: int = 0, **kwargs: Any) -> CpuStream:
        """The CPU's only stream."""
        return self._stream

    def Event(
        self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
    ) -> CpuEvent:
        """A new event; it can always be timed."""
        return CpuEvent()

    def current_stream(self, device: Any = None) -> CpuStream:
        """The CPU's only stream."""
        return self._stream

    def default_stream(self, device: Any = None) -> CpuStream:
        """The CPU's only stream."""
        return self._stream

    def set_stream(self, stream_: torch.Stream | None) -> None:
        """Nothing to select: there is one stream."""

    def stream(self, stream_: torch.Stream | None) -> AbstractContextManager[None]:
        """A context that changes nothing: there is one stream."""
        return nullcontext()

    # --- mixed precision ------------------------------------------------------------------------

    def autocast(
        self, enabled: bool = True, dtype: torch.dtype = torch.float16, cache_enabled: bool = True
    ) -> AbstractContextManager[Any]:
        """PyTorch's CPU autocast to ``dtype``."""
        return torch.autocast("cpu", dtype=dtype, enabled=enabled, cache_enabled=cache_enabled)
