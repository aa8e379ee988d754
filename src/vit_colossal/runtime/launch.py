"""One process's place in the run, its process group, and an orderly end."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from vit_colossal.errors import ConfigError


@dataclass(frozen=True)
class Topology:
    """What the launcher told this process about itself."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @classmethod
    def from_environment(cls) -> Topology:
        """Read torchrun's variables; none of them means a single process.

        Raises:
            ConfigError: some are set and others missing, or they are not numbers.
        """
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        missing = [name for name in names if name not in os.environ]
        if "RANK" in missing and "WORLD_SIZE" in missing:
            return cls()
        if missing:
            raise ConfigError(
                [
                    f"environment: {', '.join(missing)} not set beside the other launch variables: "
                    "start through torchrun or --nproc, or unset RANK and WORLD_SIZE"
                ]
            )
        try:
            rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            local_rank = int(os.environ.get("LOCAL_RANK", rank))
            return cls(rank, world, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", world)))
        except ValueError as error:
            raise ConfigError(
                [f"environment: RANK and WORLD_SIZE must be numbers ({error})"]
            ) from None


def start(topology: Topology, device: str, timeout_s: float) -> torch.device:
    """Join the process group: gloo on the CPU, NCCL on CUDA.

    A single process gets a group of its own, on a port the system picks, so that every plugin
    runs the same way at any world size.

    Args:
        topology: this process's place.
        device: ``cpu`` or ``cuda``.
        timeout_s: seconds after which a collective that a peer never joins fails.
    """
    backend = "gloo" if device == "cpu" else "nccl"
    timeout = timedelta(seconds=timeout_s)
    if topology.world_size == 1 and "RANK" not in os.environ:
        store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True, timeout=timeout)
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
    else:
        dist.init_process_group(backend, timeout=timeout)
    return torch.device("cuda", topology.local_rank) if device == "cuda" else torch.device("cpu")


def limit_waiting(timeout_s: float) -> None:
    """From here on, give up on a peer after ``timeout_s``: training has started on all ranks.

    ColossalAI makes its groups without a timeout, which means PyTorch's 10 to 30 minutes. NCCL
    takes the new limit; gloo keeps what a group was made with, hence ``stop.Watchdog``.
    """
    timeout = timedelta(seconds=timeout_s)
    for group in list(distributed_c10d._world.pg_map):
        distributed_c10d._set_pg_timeout(timeout, group)


def stop() -> None:
    """Leave the process group after the objects that hold sub-groups are gone."""
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()
