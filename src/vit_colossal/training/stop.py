"""Ending early, together: signals, a vanished parent and losses that are not finite.

Ranks notice these at different moments but have to leave after the same step. Each step they
reduce a small flag over a CPU group, asynchronously: the answer of one step is read after the next,
so no step waits for it and no device is synchronized.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import cast

import psutil
import torch
import torch.distributed as dist

from vit_colossal.errors import ExitCode, SharedProblems
from vit_colossal.runtime.group import is_of_communication, reason_of
from vit_colossal.runtime.interpreter import outlive_parent

#: Those that ask a run to finish its step, save and leave.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
#: Bytes per second below which a disk is taken for one that hangs.
SLOWEST_DISK = 10e6
_LOOKS_EVERY_S = 5.0


class PeerLost(SharedProblems):
    """Another rank does not answer any more; all that are left see it."""

    def __init__(self, problems: list[str]):
        super().__init__(problems, ExitCode.FAILED)


class StopRequest:
    """A signal that asked this process to finish its step, save and leave."""

    def __init__(self) -> None:
        self.signal = 0
        self._parent = os.getppid()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """First signal: remember. Second: leave at once."""
        if self.signal:
            os._exit(ExitCode.after(number))
        self.signal = number

    @property
    def number(self) -> int:
        """The signal, SIGTERM when the parent is gone, or 0."""
        if not self.signal and os.getppid() != self._parent:
            return signal.SIGTERM  # the signal that comes of it is not a second one
        return self.signal

    @contextmanager
    def installed(self) -> Iterator[StopRequest]:
        """Handle the signals for the duration of a run."""
        before = {number: signal.signal(number, self.handle) for number in SIGNALS}
        outlive_parent()
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Consensus:
    """The largest flag of all ranks, one step late and the same on every rank."""

    def __init__(self) -> None:
        # Every rank is a member, so this is never GroupMember.NON_GROUP_MEMBER.
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
        self._flags: torch.Tensor | None = None
        self._work: dist.Work | None = None

    def exchange(self, *flags: int) -> list[int]:
        """Send this step's flags; returns the maxima of the previous step's."""
        agreed = [0] * len(flags)
        if self._work is not None and self._flags is not None:
            self._work.wait()
            agreed = self._flags.tolist()
        self._flags = torch.tensor(flags)
        self._work = dist.all_reduce(
            self._flags, op=dist.ReduceOp.MAX, group=self._group, async_op=True
        )
        return agreed


class Watchdog:
    """Ends this process when it has shown no sign of life for too long: a peer hangs.

    gloo's collectives wait as long as was said when their group was made, and a start-up may take
    longer than a step, so that the time in training cannot be left to them.
    """

    def __init__(self, timeout_s: float, hosts: Sequence[str], step: Callable[[], int]) -> None:
        """Watch this process.

        Args:
            timeout_s: how long it may show no sign of life.
            hosts: of all ranks, in order.
            step: tells how many steps were taken.
        """
        self.timeout_s, self._hosts, self._step = timeout_s, hosts, step
        self._allowed_s = timeout_s
        self._alive = threading.Event()
        self._over = threading.Event()

    def alive(self, *_: object) -> None:
        """A sign of life; takes whatever a module hook passes."""
        self._alive.set()

    @contextmanager
    def patient(self, num_bytes: int) -> Iterator[None]:
        """Allow for the time that one rank takes to write so much, while the others wait."""
        self.alive()
        self._allowed_s = self.timeout_s + num_bytes / SLOWEST_DISK
        try:
            yield
        finally:
            self.alive()
            self._allowed_s = self.timeout_s

    @contextmanager
    def watching(self, module: torch.nn.Module) -> Iterator[None]:
        """Watch for the duration of a run; each forward of ``module`` is a sign of life.

        Raises:
            PeerLost: in place of what the communication library says of a peer that is gone.
        """
        hook = module.register_forward_pre_hook(self.alive)
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        except RuntimeError as error:
            if not is_of_communication(error):
                raise
            _wake_peers()
            gone = f"{self._suspects('another rank')} ({reason_of(error)})"
            raise PeerLost([f"{self._place()}: {gone}"]) from error
        finally:
            self._over.set()
            hook.remove()
            thread.join()

    def _watch(self) -> None:
        # Looks are counted, not hours: time in which this process was stopped itself is no hang.
        interval, silent = min(self.timeout_s / 10, _LOOKS_EVERY_S), 0.0
        while not self._over.wait(interval):
            silent = 0.0 if self._alive.is_set() else silent + interval
            self._alive.clear()
            if silent >= self._allowed_s:
                print(self._report(), file=sys.stderr, flush=True)
                _wake_peers()
                os._exit(1)

    def _report(self) -> str:
        return (
            f"error: {self._place()}: no step ended for {self.timeout_s:g} s (--timeout): "
            f"{self._suspects('a rank')}"
        )

    def _place(self) -> str:
        rank = dist.get_rank()
        return f"rank {rank} ({self._hosts[rank]}) at step {self._step()}"

    def _suspects(self, peer: str) -> str:
        """Whom this process may be waiting for."""
        mine = self._hosts[dist.get_rank()]
        others = [host for host in dict.fromkeys(self._hosts) if host != mine]
        if not others:
            return f"{peer} hangs or has ended"
        listed = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        return f"{listed} {'does' if len(others) == 1 else 'do'} not answer, or {peer} hangs"


def _wake_peers() -> None:
    """Let stopped ranks on this machine go on: they could not even end when the launcher asks."""
    with contextlib.suppress(psutil.Error):
        for peer in psutil.Process(os.getppid()).children():
            if peer.status() == psutil.STATUS_STOPPED:
                peer.send_signal(signal.SIGCONT)


class LossWatch:
    """How many steps in a row the loss has not been finite.

    On the CPU each step is looked at as it comes. On CUDA the count stays on the device, so that
    no step waits for it, and is fetched by ``look``, at the log lines.
    """

    def __init__(self, device: torch.device) -> None:
        self._streak = torch.zeros((), dtype=torch.int64, device=device)
        self.streak = 0

    def update(self, loss: torch.Tensor | None) -> None:
        if loss is None:
            return
        self._streak = torch.where(torch.isfinite(loss), 0, self._streak + 1)
        if loss.device.type == "cpu":
            self.look()

    def look(self) -> int:
        """Fetch the count from the device."""
        self.streak = int(self._streak)
        return self.streak
