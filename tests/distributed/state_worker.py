"""One rank: the bytes that tensors take in one step of each layout, beside what was predicted.

``state_worker.py CASES.json DIRECTORY``; each rank writes ``DIRECTORY/RANK.json``.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from vit_colossal.config.reading import load_config
from vit_colossal.forecast.outline import held_by_stage, outline
from vit_colossal.forecast.state import state_bytes
from vit_colossal.runtime.group import Topology, in_group
from vit_colossal.training.job import Job, build_job
from vit_colossal.training.run import plan_run
from vit_colossal.training.step import train_step


def main(cases_file: str, directory: str) -> int:
    topology = Topology.from_environment()
    found = {}
    with in_group("cpu", topology, timeout_s=60) as device:
        for name, flags in json.loads(Path(cases_file).read_text()).items():
            found[name] = measure(flags, topology, device)
            gc.collect()
            dist.barrier()
    (Path(directory) / f"{topology.rank}.json").write_text(json.dumps(found))
    return 0


def measure(flags: list[str], topology: Topology, device: torch.device) -> dict[str, Any]:
    plan, data = plan_run(load_config([*flags, "--save-every", "0"]), topology)
    place = plan.dims.coordinate(topology.rank)
    held = held_by_stage(plan, outline(plan, len(data.labels)), place.pp)
    predicted = asdict(state_bytes(plan, held, place.dp))
    job = build_job(plan, data, device)
    batches = next(iter(job.train_batches.batches(0)))
    seen: dict[str, int] = {}
    update = job.engine.strategy.update

    def counted(boosted: Any) -> Any:
        # Gemini puts them where the weights were.
        seen["gradients"] = storages(gradients(job), apart_from=weights(job))
        return update(boosted)

    job.engine.strategy.update = counted  # type: ignore[method-assign]
    seen["weights"] = storages(weights(job))
    train_step(job.engine, batches)
    optimizer = job.engine.torch_optimizer
    updated = [p for group in optimizer.param_groups for p in group["params"]]
    seen["masters"] = storages(masters(job, updated), apart_from=weights(job))
    states = [value for state in optimizer.state.values() for value in state.values()]
    seen["moments"] = storages(value for value in states if isinstance(value, torch.Tensor))
    seen["average"] = storages(job.engine.ema.values.values()) if job.engine.ema else 0
    return {"held": seen, "predicted": {name: predicted[name] for name in seen}}


def storages(tensors: Iterable[torch.Tensor], apart_from: Iterable[torch.Tensor] = ()) -> int:
    """Bytes of the memory that tensors lie in, each piece once, without that of others."""
    found = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    others = {each.untyped_storage().data_ptr() for each in apart_from}
    return sum(size for place, size in found.items() if place not in others)


def weights(job: Job) -> list[torch.Tensor]:
    """What the model computes with: parameters, or the chunks that hold them."""
    chunks = list(_chunks(job, 16))
    parameters = list(job.engine.model.unwrap().parameters())
    if not chunks:
        return parameters
    return [*(chunk.payload for chunk in chunks), *(p for p in parameters if not p.requires_grad)]


def masters(job: Job, updated: list[torch.Tensor]) -> list[torch.Tensor]:
    return [chunk.payload for chunk in _chunks(job, 32)] or updated


def gradients(job: Job) -> Iterator[torch.Tensor]:
    stores = getattr(job.engine.optimizer, "pg_to_grad_store", {})
    for store in stores.values():
        for by_parameter in store._grads_of_params.values():
            for parts in by_parameter.values():
                yield from parts
    for chunk in _chunks(job, 16):
        yield chunk.payload if chunk.grad_chunk is None else chunk.grad_chunk.payload
    for parameter in job.engine.model.unwrap().parameters():
        if parameter.grad is not None:
            yield parameter.grad


def _chunks(job: Job, bits: int) -> Iterator[Any]:
    manager = getattr(job.engine.model, "chunk_manager", None)
    for name, group in ({} if manager is None else manager.chunk_groups).items():
        if f"fp{bits}" in name:
            yield from group


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
