"""The store through which ranks find each other, and which elastic restarts may hand over used.

torchrun's agent keeps one store for all of its restarts, and PyTorch trusts it to be a new one
each time (2.14.1, c10d rendezvous: after a restart, gloo connects to the ports of processes that
are gone). ``TORCHELASTIC_RESTART_COUNT`` cannot tell the attempts apart: each machine's agent
counts its own restarts (pytorch/pytorch#135712). So the ranks agree on a name for their attempt,
below which everything they store lies.
"""

from __future__ import annotations

import os
import secrets
import time
from datetime import timedelta

import torch.distributed as dist

_PAUSE_S = 0.02


def find_store(timeout: timedelta) -> tuple[dist.Store, int, int]:
    """The store of this attempt, this process's rank and the number of ranks.

    Args:
        timeout: How long to wait for the other ranks.

    Raises:
        TimeoutError: Some did not come.
        RuntimeError: The address of the launch variables cannot be used.
    """
    store, rank, world_size = next(dist.rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        store = dist.PrefixStore(f"attempt {_agree(store, rank, world_size, timeout)}", store)
    return store, rank, world_size


def _agree(store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """A name that all ranks of this attempt, and none of an earlier one, have.

    Rank 0 draws it. Each other rank answers the name it reads with a token of its own until that
    very token is confirmed, which a rank 0 that is gone can no longer do.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    token = secrets.token_hex(8)
    if rank == 0:
        store.set("attempt", token)
        waiting = set(range(1, world_size))
        while waiting:
            _pause(deadline, f"ranks {sorted(waiting)} have not joined")
            for peer in sorted(waiting):
                answer = _read(store, f"answer/{peer}").partition(" ")
                if answer[0] == token:
                    store.set(f"confirmed/{token}/{answer[2]}", "")
                    waiting.remove(peer)
        return token
    while True:
        name = _read(store, "attempt")
        store.set(f"answer/{rank}", f"{name} {token}")
        if store.check([f"confirmed/{name}/{token}"]):
            return name
        _pause(deadline, "rank 0 has not joined")


def _read(store: dist.Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


# The store can only wait for a key to be there, and a stale one is: so both sides look again.
def _pause(deadline: float, problem: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"{problem}: the run cannot start")
    time.sleep(_PAUSE_S)
