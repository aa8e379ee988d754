"""How much memory a rank may take: measured here, or from a data sheet."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.forecast.profiles import GB, PROFILES
from vit_colossal.plan.plan import Device
from vit_colossal.runtime.group import Topology, choose_device
from vit_colossal.runtime.memory import free_bytes

_MIB, _GIB = 2**20, 2**30
#: Bytes that a process takes before it holds a weight: an allowance. On a CPU a rank with PyTorch,
#: transformers and ColossalAI has about 0.7 GiB, most of it in common with the others that it was
#: forked with; on CUDA there are a context, cuBLAS and NCCL's buffers, which were not measured.
FRAMEWORK = {"cpu": 700 * _MIB, "cuda": _GIB}


#: Processes on CPUs like this machine's, with its memory.
CPU = "cpu"


@dataclass(frozen=True)
class Room:
    """What one rank may take.

    Attributes:
        device: what it computes on.
        per_rank: bytes, with those of ``FRAMEWORK``; None where it cannot be told.
        words: where the number comes from.
        extrapolated: the devices were not looked at.
    """

    device: Device
    per_rank: int | None
    words: str
    extrapolated: bool

    @property
    def left(self) -> int | None:
        """Bytes for the run itself."""
        return None if self.per_rank is None else self.per_rank - FRAMEWORK[self.device.kind]


def by_profile(name: str, devices: int) -> Room:
    """Of devices that need not be here."""
    if name == CPU:
        return replace(of_this_machine(Device("cpu"), devices), extrapolated=True)
    profile = PROFILES[name]
    words = f"{profile.memory / GB:.0f} GB of memory each ({profile.source})"
    return Room(Device("cuda", bf16=profile.bf16), profile.memory, words, True)


def room_here(config: TrainConfig, processes: int, local_rank: int = 0) -> Room:
    """Of processes on this machine, on the device that training would take.

    Args:
        config: names the device.
        processes: on this machine.
        local_rank: whose device is looked at.

    Raises:
        ConfigError: there is no such device.
    """
    place = Topology(local_rank, processes, local_rank, processes)
    device = choose_device(config, place)
    free = torch.cuda.mem_get_info(local_rank)[0] if device.kind == "cuda" else None
    return of_this_machine(device, processes, free)


def of_this_machine(device: Device, processes: int, free_on_device: int | None = None) -> Room:
    """Of the machine at hand, now; what processes have before they begin comes on top.

    On a CPU they have most of it in common, and this process holds as much.

    Args:
        device: what its processes compute on.
        processes: that share the host's memory.
        free_on_device: bytes, of a GPU.
    """
    free, words = free_on_device, "free on this machine's device, with an allowance for the process"
    if device.kind == "cpu":
        here = free_bytes()
        free = None if here is None else here // processes
        words = "free on this machine for each process, with an allowance for the process"
    whole = None if free is None else free + FRAMEWORK[device.kind]
    return Room(device, whole, words, False)
