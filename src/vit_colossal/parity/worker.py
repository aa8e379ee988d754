"""One rank of a parity run; as a program ``worker.py CASES.json``.

Runs a list of cases one after the other in the same processes, for starting a process costs more
than a short case. A case is a layout of ours or transformers' own Trainer.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.parity.case import Case
from vit_colossal.parity.trace import Trace
from vit_colossal.rundir.metrics import NullReporter
from vit_colossal.runtime.group import Topology, in_group
from vit_colossal.training.run import plan_run
from vit_colossal.training.stop import StopRequest

#: A bound that no gradient reaches: the plugins then report the norm and clip nothing.
NO_CLIPPING = 1e30


def record_layout(config: TrainConfig, topology: Topology, device: torch.device) -> Trace | None:
    """Train as configured and record every step; the trace is the lead rank's, None elsewhere."""
    from vit_colossal.checkpoints.weights import gather_weights
    from vit_colossal.parity.recorder import StepRecorder
    from vit_colossal.training.features import keep_features
    from vit_colossal.training.fit import checkpointer
    from vit_colossal.training.job import build_job
    from vit_colossal.training.loop import Loop

    asked = config.clip_grad_norm or NO_CLIPPING
    plan, data = plan_run(config.replace(clip_grad_norm=asked, save_every=0), topology)
    job = build_job(plan, data, device)
    keep_features(job)
    steps = StepRecorder(job.engine)
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(job, NullReporter(), checkpointer(job, Path(folder)), recorder=steps)
        loop.run(StopRequest())
    evaluation = loop.evaluation or job.evaluate()
    losses, weights = steps.mean_losses(), gather_weights(job.engine)
    if weights is None:
        return None
    weights = {name: tensor.float() for name, tensor in weights.items()}
    counts = evaluation.correct, evaluation.total
    norms = [norm or 0.0 for norm in steps.grad_norms]
    return Trace(losses, norms, steps.lrs, *counts, weights)


def run_case(case: Case, topology: Topology, device: torch.device) -> None:
    """Run one case, and save its trace once all ranks are through."""
    if case.trainer_optim is not None:
        from vit_colossal.parity.peer import record_transformers

        trace = record_transformers(case.config, topology, case.trainer_optim)
    else:
        trace = record_layout(case.config, topology, device)
    gc.collect()
    dist.barrier()
    if trace is not None:
        trace.save(case.trace_dir)


def run_cases(path: Path) -> int:
    """Run the cases of a file, with a line for each as it begins; returns the exit code."""
    logging.getLogger("vit_colossal").setLevel(logging.WARNING)
    cases = [Case.from_json(values) for values in json.loads(path.read_text(encoding="utf-8"))]
    topology = Topology.from_environment()
    with in_group(cases[0].config.device, topology, timeout_s=300) as device:
        for case in cases:
            if topology.rank == 0:
                print(f"{case.place}: {case.trace_dir.name}", flush=True)
            run_case(case, topology, device)
    return 0


if __name__ == "__main__":
    sys.exit(run_cases(Path(sys.argv[1])))
