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

from vit_colossal import runtime
from vit_colossal.checkpoints.weights import gather_weights
from vit_colossal.config.reading import load_config
from vit_colossal.data.cache import CachedSplit
from vit_colossal.data.loaders import EvalBatches
from vit_colossal.runtime.group import Topology, start, stop
from vit_colossal.training.job import Trainer
from vit_colossal.training.run import plan_run
from vit_colossal.training.step import train_step


def main(cases_file: str, directory: str) -> int:
    topology = Topology.from_environment()
    runtime.activate("cpu")
    device = start(topology, "cpu", timeout_s=60)
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
    stop()
    return 0


def run_case(case: dict[str, Any], folder: Path, topology: Topology, device: torch.device) -> None:
    """Train, evaluate where asked, and let the lead rank write down what happened."""
    plan, data = plan_run(load_config(case["flags"]), topology)
    trainer = Trainer(plan, data, device)
    calls = _watch_layers(trainer)
    losses, norms, evaluations = [], [], {}
    wanted = {int(step): count for step, count in case["evaluate"].items()}
    layer_calls = wrong_modes = 0
    for epoch in range(trainer.epochs):
        for batches in trainer.train_batches.batches(epoch):
            step = len(losses)
            if step == trainer.total_steps:
                break
            if step in wanted:
                calls.clear()
                evaluations[step] = evaluate_first(trainer, wanted[step])
                wrong_modes += sum(calls)
            calls.clear()
            output = train_step(trainer.engine, batches)
            losses.append(_mean_over_replicas(trainer, output.loss))
            norms.append(None if output.grad_norm is None else float(output.grad_norm))
            layer_calls = layer_calls or len(calls)
            wrong_modes += calls.count(False)
    after = [evaluate_first(trainer, count, predictions=True) for count in case["after"]]
    chunks = _gemini_chunks(trainer)
    weights = gather_weights(trainer.engine)
    if case["export"]:
        trainer.save(folder / "model")
    if weights is None:
        return
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(contiguous, folder / "weights.safetensors")
    result = {
        "losses": losses,
        "grad_norms": norms,
        "evaluations": evaluations,
        "after": after,
        "layer_calls": layer_calls,
        "wrong_modes": wrong_modes,
        "chunks": len(chunks),
        "sharded_chunks": sum(not chunk.keep_gathered for chunk in chunks),
        "labels": list(trainer.model.config.id2label.values()),
    }
    (folder / "result.json").write_text(json.dumps(result))


def evaluate_first(trainer: Trainer, count: int, *, predictions: bool = False) -> dict[str, Any]:
    """Evaluate on the first ``count`` images, as if they were the whole split."""
    whole, batches = trainer.data, trainer.eval_batches
    split = CachedSplit(whole.evaluation.images[:count], whole.evaluation.labels[:count])
    trainer.data = replace(whole, evaluation=split)
    trainer.eval_batches = EvalBatches(split, batches.batch_size, batches.shard)
    result = trainer.evaluate(predictions=predictions)
    trainer.data, trainer.eval_batches = whole, batches
    counts = {"loss": result.loss, "correct": result.correct, "total": result.total}
    if (found := result.predictions) is None:
        return counts
    columns = ("label", "prediction", "loss", "top_labels", "top_scores")
    return {**counts, "images": {name: getattr(found, name).tolist() for name in columns}}


def _mean_over_replicas(trainer: Trainer, loss: torch.Tensor | None) -> float:
    """The global batch's loss in double precision, from the ranks that see one."""
    mine = loss.item() if trainer.engine.last_stage and loss is not None else None
    losses: list[float | None] = [None] * trainer.plan.dims.world_size
    dist.all_gather_object(losses, mine)
    seen = [value for value in losses if value is not None]
    return sum(seen) / len(seen)


def _watch_layers(trainer: Trainer) -> list[bool]:
    """A list that gets an entry for each encoder layer forward: whether in training mode."""
    calls: list[bool] = []
    for name, module in trainer.model.named_modules():
        if name.endswith(".layernorm_before"):
            module.register_forward_pre_hook(lambda layer, _: calls.append(layer.training))
    return calls


def _gemini_chunks(trainer: Trainer) -> list[Any]:
    manager = getattr(trainer.engine.model, "chunk_manager", None)
    if manager is None:
        return []
    return [chunk for group in manager.chunk_groups.values() for chunk in group]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
