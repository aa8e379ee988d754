"""One rank of a launch: run every case in this process, one after another.

``worker.py CASES.json DIRECTORY``; the lead rank of a case writes ``DIRECTORY/NAME/result.json``.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from vit_colossal.checkpoints.weights import gather_weights
from vit_colossal.config.reading import load_config
from vit_colossal.data.loaders import EvalBatches
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.parity.recorder import StepRecorder
from vit_colossal.rundir.metrics import NullReporter
from vit_colossal.runtime.group import Topology, in_group
from vit_colossal.training.fit import checkpointer
from vit_colossal.training.job import Job, build_job
from vit_colossal.training.loop import Loop
from vit_colossal.training.run import plan_run
from vit_colossal.training.step import StepOutput
from vit_colossal.training.stop import StopRequest


def main(cases_file: str, directory: str) -> int:
    topology = Topology.from_environment()
    with in_group("cpu", topology, timeout_s=180) as device:
        for case in json.loads(Path(cases_file).read_text()):
            folder = Path(directory) / case["name"]
            folder.mkdir(parents=True, exist_ok=True)
            try:
                run_case(case, folder, topology, device)
            except BaseException:
                path = folder / f"error-{topology.rank}.txt"
                path.write_text(traceback.format_exc())
                os._exit(1)  # the peers may wait in a collective for ever: the launcher ends them
            gc.collect()  # the wrappers and their hooks refer to each other
            dist.barrier()
    return 0


class Watcher(StepRecorder):
    """Records the steps, evaluates before those that the case names, and counts forward passes."""

    def __init__(self, job: Job, evaluate: dict[int, int]) -> None:
        super().__init__(job.engine)
        self.job, self.wanted = job, evaluate
        self.evaluations: dict[int, dict[str, Any]] = {}
        self.layer_calls = self.wrong_modes = 0
        self.calls: list[bool] = []
        for name, module in job.model.named_modules():
            if name.endswith(".layernorm_before"):
                module.register_forward_pre_hook(lambda layer, _: self.calls.append(layer.training))

    def before(self, step: int) -> None:
        self.calls.clear()
        if step in self.wanted:
            self.evaluations[step] = evaluate_first(self.job, self.wanted[step])
            self.wrong_modes += sum(self.calls)
        self.calls.clear()

    def after(self, output: StepOutput) -> None:
        super().after(output)
        self.layer_calls = self.layer_calls or len(self.calls)
        self.wrong_modes += self.calls.count(False)
        self.calls.clear()


def run_case(case: dict[str, Any], folder: Path, topology: Topology, device: torch.device) -> None:
    """Train, evaluate where asked, and let the lead rank write down what happened."""
    plan, data = plan_run(load_config([*case["flags"], "--save-every", "0"]), topology)
    job = build_job(plan, data, device)
    seen = Watcher(job, {int(step): count for step, count in case["evaluate"].items()})
    checkpoints = checkpointer(job, folder)
    Loop(job, NullReporter(), checkpoints, recorder=seen, evaluates=False).run(StopRequest())
    after = [evaluate_first(job, count, predictions=True) for count in case["after"]]
    chunks = _gemini_chunks(job)
    weights = gather_weights(job.engine)
    losses = seen.mean_losses()
    if case["export"]:
        job.save(folder)
    if weights is None:
        return
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(contiguous, folder / "weights.safetensors")
    result = {
        "losses": losses,
        "grad_norms": seen.grad_norms,
        "evaluations": seen.evaluations,
        "after": after,
        "layer_calls": seen.layer_calls,
        "wrong_modes": seen.wrong_modes,
        "chunks": len(chunks),
        "sharded_chunks": sum(not chunk.keep_gathered for chunk in chunks),
        "labels": list(job.model.config.id2label.values()),
    }
    (folder / "result.json").write_text(json.dumps(result))


def evaluate_first(job: Job, count: int, *, predictions: bool = False) -> dict[str, Any]:
    """Evaluate on the first ``count`` images, as if they were the whole split."""
    whole, batches = job.data, job.eval_batches
    split = CachedSplit(whole.evaluation.images[:count], whole.evaluation.labels[:count])
    part = replace(
        job,
        data=replace(whole, evaluation=split),
        eval_batches=EvalBatches(split, batches.batch_size, batches.shard),
    )
    result = part.evaluate(predictions=predictions)
    counts = {"loss": result.loss, "correct": result.correct, "total": result.total}
    if (found := result.predictions) is None:
        return counts
    columns = ("label", "prediction", "loss", "top_labels", "top_scores")
    return {**counts, "images": {name: getattr(found, name).tolist() for name in columns}}


def _gemini_chunks(job: Job) -> list[Any]:
    manager = getattr(job.engine.model, "chunk_manager", None)
    if manager is None:
        return []
    return [chunk for group in manager.chunk_groups.values() for chunk in group]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
