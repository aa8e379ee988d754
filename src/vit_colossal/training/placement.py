"""Where the ranks of a run are: which host has which part of the model and of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vit_colossal.plan.parallel_dims import Coordinate, ParallelDims


def placement(dims: ParallelDims, hosts: Sequence[str]) -> list[str]:
    """A line for each host, one on what crosses them, and a warning where that is ``--tp``.

    Nothing for a single host.

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
    crossing = _crossing(dims, hosts)
    words = {"pp": f"activations of {dims.pp} stages", "dp": f"gradients of {dims.dp} replicas"}
    if sent := [text for degree, text in words.items() if degree in crossing]:
        lines.append(f"between hosts: {', '.join(sent)}")
    if "tp" in crossing:
        lines.append(
            f"--tp {dims.tp} crosses hosts, and exchanges activations twice in each layer: choose "
            "one that divides the processes of a host, and let --pp or the replicas cross"
        )
    return lines


def _crossing(dims: ParallelDims, hosts: Sequence[str]) -> set[str]:
    """The degrees along which ranks of one line of the mesh are on several hosts."""
    found = set()
    for degree in ("dp", "pp", "tp"):
        lines: dict[Coordinate, set[str]] = {}
        for rank, host in enumerate(hosts):
            line = replace(dims.coordinate(rank), **{degree: 0})
            lines.setdefault(line, set()).add(host)
        if any(len(those) > 1 for those in lines.values()):
            found.add(degree)
    return found


def _described(dims: ParallelDims, rank: int) -> str:
    at = dims.coordinate(rank)
    parts = [("replica", at.dp, dims.dp), ("stage", at.pp, dims.pp), ("shard", at.tp, dims.tp)]
    words = " ".join(f"{name} {place}" for name, place, count in parts if count > 1)
    return f"rank {rank} ({words})" if words else f"rank {rank}"
