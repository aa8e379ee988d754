"""One rank of a parity run: ``python -m vit_colossal.parity.worker CASES.json``.

Runs a list of cases one after the other in the same processes, for starting a process costs more
than a short case. A case is a layout of ours or transformers' own Trainer.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from vit_colossal import runtime
from vit_colossal.config.reading import TrainConfig
from vit_colossal.parity.case import Case
from vit_colossal.parity.trace import Trace
from vit_colossal.runtime.group import Topology, start, stop
from vit_colossal.training.run import plan_run

if TYPE_CHECKING:
    # Imported after `activate` when it runs: ColossalAI opens a context on the current device.
    from vit_colossal.data.loaders import Batch
    from vit_colossal.strategies.engine import Engine
    from vit_colossal.training.job import Trainer
    from vit_colossal.training.step import StepOutput

#: A bound that no gradient reaches: the plugins then report the norm and clip nothing.
NO_CLIPPING = 1e30


def train_step(engine: Engine, batches: list[Batch]) -> StepOutput:
    """The product's own step."""
    from vit_colossal.training.step import train_step as step

    return step(engine, batches)


def record_layout(config: TrainConfig, topology: Topology, device: torch.device) -> Trace | None:
    """Train as configured and record every step; the trace is the lead rank's, None elsewhere."""
    from vit_colossal.checkpoints.weights import gather_weights
    from vit_colossal.training.job import Trainer

    asked = config.clip_grad_norm
    plan, data = plan_run(config.replace(clip_grad_norm=asked or NO_CLIPPING), topology)
    trainer = Trainer(plan, data, device)
    engine = trainer.engine
    losses: list[float] = []
    norms: list[float] = []
    lrs: list[float] = []
    epoch = 0
    while len(losses) < trainer.total_steps:
        for batches in trainer.train_batches.batches(epoch):
            output = train_step(engine, batches)
            lrs.append(output.lr)
            losses.append(_replica_mean(trainer, output.loss))
            norms.append(float(output.grad_norm or 0.0))
            if len(losses) == trainer.total_steps:
                break
        epoch += 1
    evaluation = trainer.evaluate()
    weights = gather_weights(engine)
    if weights is None:
        return None
    weights = {name: tensor.float() for name, tensor in weights.items()}
    return Trace(losses, norms, lrs, evaluation.correct, evaluation.total, weights)


def _replica_mean(trainer: Trainer, loss: torch.Tensor | None) -> float:
    """Mean of the replicas' losses in double precision, added in order of rank."""
    engine = trainer.engine
    if loss is None:
        return 0.0
    parts = [torch.zeros((), device=engine.device) for _ in range(engine.dims.dp)]
    dist.all_gather(parts, loss.float(), group=engine.dp_group)
    return sum(part.item() for part in parts) / len(parts)


def run_case(case: Case, topology: Topology, device: torch.device) -> None:
    """Run one case and save its trace."""
    if case.trainer_optim is not None:
        from vit_colossal.parity.peer import record_transformers

        trace = record_transformers(case.config, topology, case.trainer_optim)
    else:
        trace = record_layout(case.config, topology, device)
    if trace is not None:
        trace.save(case.trace_dir)
    gc.collect()
    dist.barrier()


def main(path: Path) -> None:
    """Run the cases of a file that this launch has not run yet."""
    cases = [Case.from_json(values) for values in json.loads(path.read_text(encoding="utf-8"))]
    topology, kind = Topology.from_environment(), cases[0].config.device
    if kind == "cuda":
        torch.cuda.set_device(topology.local_rank)
    runtime.activate(kind)
    device = start(topology, kind, timeout_s=300)
    try:
        for case in cases:
            run_case(case, topology, device)
    finally:
        stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
