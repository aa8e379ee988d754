"""A parity worker that does something wrong from FAULT_STEP on, as the case's name says."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from vit_colossal.data.samples import Batch
from vit_colossal.parity import worker as parity_worker
from vit_colossal.strategies.engine import Engine
from vit_colossal.training import loop
from vit_colossal.training.step import StepOutput, train_step

FAULT_STEP = 5
DEATH = 9


def scale_gradient(engine: Engine, batches: list[Batch]) -> StepOutput:
    backward = engine.optimizer.backward
    engine.optimizer.backward = lambda loss: backward(loss * 1.01)
    try:
        return train_step(engine, batches)
    finally:
        engine.optimizer.backward = backward


def skip_reduction(engine: Engine, batches: list[Batch]) -> StepOutput:
    with engine.strategy.no_sync(engine):
        return train_step(engine, batches)


def repeat_sample(engine: Engine, batches: list[Batch]) -> StepOutput:
    batch = batches[0]
    batch.images[1], batch.labels[1] = batch.images[0].clone(), batch.labels[0].clone()
    return train_step(engine, batches)


def drop_sample(engine: Engine, batches: list[Batch]) -> StepOutput:
    batch = batches[0]
    kept = Batch(batch.images[:-1], batch.labels[:-1], batch.indices[:-1])
    return train_step(engine, [kept if engine.rank == 0 else batch])


def wrong_lr_on_one_rank(engine: Engine, batches: list[Batch]) -> StepOutput:
    if engine.rank == 1:
        for group in engine.optimizer.param_groups:
            group["lr"] *= 1.01
    return train_step(engine, batches)


def layer_not_updated(engine: Engine, batches: list[Batch]) -> StepOutput:
    layer = engine.model.unwrap().vit.layers[0]
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    output = train_step(engine, batches)
    layer.load_state_dict(before)
    return output


def die(engine: Engine, batches: list[Batch]) -> StepOutput:
    if engine.rank == 1:
        os._exit(DEATH)
    return train_step(engine, batches)


def none(engine: Engine, batches: list[Batch]) -> StepOutput:
    return train_step(engine, batches)


FAULTS: dict[str, Callable[[Engine, list[Batch]], StepOutput]] = {
    fault.__name__: fault
    for fault in (
        none,
        scale_gradient,
        skip_reduction,
        repeat_sample,
        die,
        drop_sample,
        wrong_lr_on_one_rank,
        layer_not_updated,
    )
}


def main(path: Path) -> int:
    run_case = parity_worker.run_case

    def run_faulty(case, topology, device):  # type: ignore[no-untyped-def]
        steps = 0

        def step(engine: Engine, batches: list[Batch]) -> StepOutput:
            nonlocal steps
            steps += 1
            return (FAULTS[case.name] if steps >= FAULT_STEP else train_step)(engine, batches)

        loop.train_step = step
        run_case(case, topology, device)

    parity_worker.run_case = run_faulty
    return parity_worker.run_cases(path)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
