"""One rank: ZeRO as upstream has it and as the project has it, step by step; rank 0 prints JSON."""

from __future__ import annotations

import json
import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from vit_colossal import runtime
from vit_colossal.checkpoints.weights import gather_weights
from vit_colossal.config.reading import load_config
from vit_colossal.runtime.group import Topology, start, stop
from vit_colossal.runtime.transfers import ZeroPlugin, _average_gradients
from vit_colossal.strategies import zero
from vit_colossal.training.job import build_job
from vit_colossal.training.run import plan_run
from vit_colossal.training.step import train_step

STEPS = 3


def counted() -> Counter[str]:
    """Counts the collectives from here on."""
    calls: Counter[str] = Counter()
    for name in ("all_reduce", "reduce_scatter_tensor"):
        original = getattr(dist, name)

        def call(*args: Any, _name: str = name, _original: Any = original, **options: Any) -> Any:
            calls[_name] += 1
            return _original(*args, **options)

        setattr(dist, name, call)
    return calls


def run(plugin: Any, flags: list[str], topology: Topology, calls: Counter[str]) -> dict[str, Any]:
    zero.ZeroPlugin = plugin  # type: ignore[misc]
    plan, data = plan_run(load_config(flags), topology)
    job = build_job(plan, data, torch.device("cpu"))
    batches = job.train_batches.batches(0)
    losses = []
    for _ in range(STEPS):
        calls.clear()
        losses.append(float(train_step(job.engine, next(batches)).loss or 0.0))
    weights = gather_weights(job.engine)
    stores = job.engine.optimizer.pg_to_bucket_store.values()
    buckets = [plan.bucket_elements, *(store.reduce_bucket_size for store in stores)]
    return {
        "losses": losses,
        "calls": sum(calls.values()),
        "weights": weights,
        "bucket_elements": buckets,
    }


def averaged(topology: Topology, calls: Counter[str]) -> tuple[bool, int]:
    """Whether bucketed means are those of one all-reduce a parameter, and how many were sent."""
    torch.manual_seed(topology.rank)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7), torch.nn.Linear(7, 3))
    expected = []
    for parameter in list(model.parameters())[:-1]:  # one has no gradient
        parameter.grad = torch.randn_like(parameter)
        mean = parameter.grad.clone()
        dist.all_reduce(mean)
        expected.append(mean.div_(topology.world_size))
    calls.clear()
    _average_gradients(SimpleNamespace(dp_group=dist.group.WORLD, module=model), 2**20)
    found = [p.grad for p in model.parameters() if p.grad is not None]
    return all(map(torch.equal, found, expected)), calls["all_reduce"]


def main() -> None:
    from colossalai.booster.plugin import LowLevelZeroPlugin

    topology = Topology.from_environment()
    runtime.activate("cpu")
    start(topology, "cpu", timeout_s=60)
    calls = counted()
    report: dict[str, Any] = {"averaged": averaged(topology, calls)}
    for kind in ("zero1", "zero2"):
        flags = ["--plugin", kind, *sys.argv[1:]]
        ours, upstream = (run(p, flags, topology, calls) for p in (ZeroPlugin, LowLevelZeroPlugin))
        report[kind] = {
            "losses": [ours["losses"], upstream["losses"]],
            "calls": [ours["calls"], upstream["calls"]],
            "bucket_elements": ours["bucket_elements"],
        }
        if ours["weights"] is not None:
            same = [ours["weights"][name].equal(w) for name, w in upstream["weights"].items()]
            report[kind]["same_weights"] = [sum(same), len(same)]
    if topology.rank == 0:
        print("REPORT " + json.dumps(report))
    dist.barrier()
    stop()


if __name__ == "__main__":
    main()
