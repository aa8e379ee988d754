"""One process's place in the run, its process group, and an orderly end."""

from __future__ import annotations

import gc
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.plan.plan import Device
from vit_colossal.runtime import activate
from vit_colossal.runtime.cpu import bf16_unit
from vit_colossal.runtime.rendezvous import find_store

logger = logging.getLogger("vit_colossal")

#: For so long a wait is not spoken of.
_PATIENCE_S = 10
#: Set where the launcher has planned the run, and told all that there is to tell of it.
PLAN_IS_TOLD = "VIT_COLOSSAL_PLAN_IS_TOLD"


@dataclass(frozen=True)
class Topology:
    """What the launcher told this process about itself."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    plan_is_told: bool = False

    @property
    def tells(self) -> bool:
        """Whether this process tells people what is planned."""
        return self.rank == 0 and not self.plan_is_told

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
        values = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "MASTER_PORT")}
        values["LOCAL_RANK"] = os.environ.get("LOCAL_RANK", values["RANK"])
        values["LOCAL_WORLD_SIZE"] = os.environ.get("LOCAL_WORLD_SIZE", values["WORLD_SIZE"])
        problems = _launch_problems(values)
        if problems:
            raise ConfigError([f"environment: {problem}" for problem in problems])
        return cls(
            rank=int(values["RANK"]),
            world_size=int(values["WORLD_SIZE"]),
            local_rank=int(values["LOCAL_RANK"]),
            local_world_size=int(values["LOCAL_WORLD_SIZE"]),
            plan_is_told=PLAN_IS_TOLD in os.environ,
        )


def _launch_problems(values: dict[str, str]) -> list[str]:
    """What no launcher would have set."""
    # Those that are not set stand for others, whose fault is said once.
    wrong = [n for n, value in values.items() if n in os.environ and not value.isdecimal()]
    if wrong:
        return [f"{name} {values[name]} is not a whole number from 0 up" for name in wrong]
    problems = [
        f"{scope}RANK {values[scope + 'RANK']} does not lie below {scope}WORLD_SIZE "
        f"{values[scope + 'WORLD_SIZE']}: start through torchrun or --nproc"
        for scope in ("", "LOCAL_")
        if int(values[f"{scope}RANK"]) >= int(values[f"{scope}WORLD_SIZE"])
    ]
    # Both local ones default to the others: one cause is said once.
    del problems[1:]
    if not 0 < int(values["MASTER_PORT"]) < 2**16:
        problems.append(f"MASTER_PORT {values['MASTER_PORT']} is no port: use 1 to 65535")
    return problems


def compute_exactly() -> None:
    """Let CUDA compute fp32 in fp32, and the same sums in the same order each time.

    PyTorch lets convolutions round their fp32 inputs to TF32, and cuDNN choose algorithms that add
    as they come: neither goes with comparing runs, nor with continuing one bit for bit. 16-bit
    arithmetic stays as it is, and so do attention's kernels, whose sums have at most two parts at
    197 tokens. The CPU has none of these.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def join(timeout_s: float) -> dist.Store:
    """The store through which the ranks meet, once all of them are there.

    Args:
        timeout_s: how long to wait for them.

    Raises:
        ConfigError: the address of the launch variables cannot be used, or a rank did not come.
    """
    try:
        return find_store(timedelta(seconds=timeout_s))[0]
    except TimeoutError as error:
        raise ConfigError([f"environment: {error}"]) from None
    except RuntimeError as error:
        if not (of_address := _problem_of_address(error, timeout_s)):
            raise
        raise ConfigError([f"environment: {of_address}"]) from None


def _problem_of_address(error: RuntimeError, timeout_s: float) -> str:
    """Why the ranks cannot meet; nothing when the error is about something else."""
    text, world = str(error).splitlines()[0].rstrip("."), os.environ["WORLD_SIZE"]
    if isinstance(error, dist.DistStoreError):  # here is the store, and nobody came
        return f"not all {world} ranks have come within {timeout_s:g} s: start the others, too"
    where = f"MASTER_ADDR and MASTER_PORT, {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if "EADDRINUSE" in str(error):
        return f"{where}: in use by another program: choose another"
    if not isinstance(error, dist.DistNetworkError):
        return ""
    if "timed out" in text:
        return f"{where}: no rank 0 there within {timeout_s:g} s: start it, or give its address"
    return f"{where}: {text}: choose another"


def start(
    topology: Topology, device: str, timeout_s: float, store: dist.Store | None = None
) -> torch.device:
    """Join the process group: gloo on the CPU, NCCL on CUDA, which then computes exactly.

    A single process gets a group of its own, on a port the system picks, so that every plugin
    runs the same way at any world size.

    Args:
        topology: this process's place.
        device: ``cpu`` or ``cuda``.
        timeout_s: seconds after which a collective that a peer never joins fails.
        store: where the ranks have met already; see `join`.

    Raises:
        ConfigError: the address of the launch variables cannot be used, or a rank did not come.
    """
    backend = "gloo" if device == "cpu" else "nccl"
    if device == "cuda":
        compute_exactly()
    timeout = timedelta(seconds=timeout_s)
    if topology.world_size == 1 and "RANK" not in os.environ:
        own = dist.TCPStore("127.0.0.1", 0, 1, is_master=True, timeout=timeout)
        dist.init_process_group(backend, store=own, rank=0, world_size=1, timeout=timeout)
    else:
        store = store or join(timeout_s)
        waits = f"rank {topology.rank} waits for connections, at most {timeout_s:g} s"
        try:
            with said_late(f"{waits}: {_wrong_way()}" if topology.local_rank == 0 else ""):
                dist.init_process_group(
                    backend,
                    store=store,
                    rank=topology.rank,
                    world_size=topology.world_size,
                    timeout=timeout,
                )
        except RuntimeError as error:
            if not is_of_communication(error):
                raise
            raise ConfigError([_not_connected(error)]) from error
    return torch.device("cuda", topology.local_rank) if device == "cuda" else torch.device("cpu")


def _not_connected(error: RuntimeError) -> str:
    reason = reason_of(error)
    return f"environment: the ranks have met, but cannot connect ({reason}): {_wrong_way()}"


def _wrong_way() -> str:
    return (
        f"the name of a host, here {socket.gethostname()}, may lead back to itself or to a network "
        "that the others do not reach; name the interface that leads to them with "
        "GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME"
    )


@contextmanager
def said_late(text: str, level: int = logging.INFO) -> Iterator[None]:
    """Log a line if the block takes longer than a person waits without a word.

    Args:
        text: nothing for none.
        level: of the line.
    """
    timer = threading.Timer(_PATIENCE_S, logger.log, (level, "%s", text))
    timer.daemon = True
    if text:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def hosts_of_ranks() -> list[str]:
    """The host of each rank of the group; all of them have to call this."""
    names = [""] * dist.get_world_size()
    dist.all_gather_object(names, socket.gethostname())
    return names


def is_of_communication(error: RuntimeError) -> bool:
    """Whether a collective failed because of a peer: NCCL and the store have types, gloo a path."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def reason_of(error: RuntimeError) -> str:
    """What happened, without the place in the library's source before it and advice behind it."""
    text = str(error).splitlines()[0]
    return re.sub(r"^.*\[/\S*\] ", "", text).partition(". ")[0]


def limit_waiting(timeout_s: float) -> None:
    """From here on, give up on a peer after ``timeout_s``: training has started on all ranks.

    ColossalAI makes its groups without a timeout, which means PyTorch's 10 to 30 minutes. NCCL
    takes the new limit; gloo keeps what a group was made with, hence ``stop.Watchdog``.
    """
    timeout = timedelta(seconds=timeout_s)
    # Public since a release after 2.11, where the other name began to warn.
    set_timeout = getattr(dist, "set_timeout", None) or distributed_c10d._set_pg_timeout
    for group in list(distributed_c10d._world.pg_map):
        set_timeout(timeout, group)


def stop() -> None:
    """Leave the process group after the objects that hold sub-groups are gone."""
    gc.collect()
    if dist.is_initialized():
        # Freeing a group waits for gloo's threads with Python's lock held, and one that still has
        # the last collective's tensors to drop needs that lock: a peer of the benchmark, which
        # came here straight from a collective, hung for ever in 2 of 9 launches (torch 2.5.1).
        time.sleep(0.1)
        dist.destroy_process_group()


def choose_device(config: TrainConfig, topology: Topology) -> Device:
    """CUDA when every local process gets a device of its own, else the CPU.

    Raises:
        ConfigError: ``--device cuda`` without enough devices.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = topology.local_world_size
    if config.device == "cuda" and available < wanted:
        raise ConfigError(
            [
                f"--device cuda: {available} CUDA devices for {wanted} processes: "
                "start fewer processes or use --device cpu"
            ]
        )
    if config.device == "cpu" or available < wanted:
        return Device("cpu", bf16_unit=bf16_unit())
    # bf16 came with compute capability 8.0 (Ampere).
    return Device("cuda", bf16=torch.cuda.get_device_capability(topology.local_rank) >= (8, 0))


@contextmanager
def in_group(
    kind: str, topology: Topology, *, store: dist.Store | None = None, timeout_s: float = 600
) -> Iterator[torch.device]:
    """A process group for a while, and this rank's device in it.

    ColossalAI opens a CUDA context when it is imported, so the device is chosen before: import what
    needs it inside. What holds sub-groups (an engine) must be gone at the end: keep it in a
    function that is called inside.

    Args:
        kind: ``cpu`` or ``cuda``.
        topology: this process's place.
        store: where the ranks have met already.
        timeout_s: seconds after which a collective that a peer never joins fails.
    """
    if kind == "cuda":
        torch.cuda.set_device(topology.local_rank)
    activate(kind)
    try:
        yield start(topology, kind, timeout_s, store)
    finally:
        stop()
