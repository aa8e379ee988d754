"""Where the ranks of a run are: which host has which part of the model and of the batch."""

from __future__ import annotations

from collections.abc import Sequence

from vit_colossal.plan.parallel_dims import ParallelDims


def placement(dims: ParallelDims, hosts: Sequence[str]) -> list[str]:
    """A line for each host, and one on what crosses hosts that should not; none for one host.

    Args:
        dims: the degrees.
        hosts: of all ranks, in order.
    """
    if len(set(hosts)) < 2:
        return []
    lines = []
    for host in dict.fromkeys(hosts):
        ranks = [rank for rank, name in enumerate(hosts) if name == host]
        lines.append(f"{host}: " + ", ".join(_described(dims, rank) for rank in ranks))
    starts = range(0, dims.world_size, dims.tp)
    if any(len(set(hosts[start : start + dims.tp])) > 1 for start in starts):
        lines.append(
            f"--tp {dims.tp} crosses hosts, and exchanges activations twice in each layer: choose "
            "one that divides the processes of a host, and let --pp or the replicas cross"
        )
    return lines


def _described(dims: ParallelDims, rank: int) -> str:
    at = dims.coordinate(rank)
    parts = [("replica", at.dp, dims.dp), ("stage", at.pp, dims.pp), ("shard", at.tp, dims.tp)]
    words = " ".join(f"{name} {place}" for name, place, count in parts if count > 1)
    return f"rank {rank} ({words})" if words else f"rank {rank}"
