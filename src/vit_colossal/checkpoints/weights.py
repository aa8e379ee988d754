"""A strategy's scattered weights as one plain state dict."""

from __future__ import annotations

import torch
import torch.distributed as dist

from vit_colossal.strategies.engine import Engine


def gather_weights(engine: Engine) -> dict[str, torch.Tensor] | None:
    """The whole model by published name, on the CPU of the lead rank; None elsewhere.

    These are the weights that evaluation computes with: fp32 under ddp, the 16-bit working weights
    where the plugin trains with those; their average where one is kept. Every rank has to call
    this.

    Raises:
        RuntimeError: the parts do not make up the model that was wrapped.
    """
    with engine.evaluated_weights():
        return _gather(engine)


def _gather(engine: Engine) -> dict[str, torch.Tensor] | None:
    weights = engine.strategy.weights(engine)
    if engine.pipelined:
        weights = _join_stages(engine, weights)
    if not engine.is_lead:
        return None
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    if shapes != engine.shapes:
        wrong = sorted(set(shapes.items()) ^ set(engine.shapes.items()))
        raise RuntimeError(f"the gathered weights are not the model's: {wrong[:4]}")
    return {name: weights[name] for name in engine.shapes}


def _join_stages(engine: Engine, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Send each stage's weights to the lead rank, one tensor at a time."""
    dims, me = engine.dims, engine.coordinate
    lead = dims.lead_rank
    if me.dp or me.tp:
        return {}
    group = engine.strategy.stages(engine)
    described = [(name, tensor.shape, tensor.dtype) for name, tensor in weights.items()]
    stages: list[list[tuple[str, torch.Size, torch.dtype]]] = [[] for _ in range(dims.pp)]
    dist.all_gather_object(stages, described, group=group)
    joined: dict[str, torch.Tensor] = {}
    for stage, parts in enumerate(stages):
        source = stage * dims.tp
        for name, shape, dtype in parts:
            if engine.rank == source == lead:
                joined[name] = weights[name]
            elif engine.rank == source:
                dist.send(weights[name].to(engine.device), dst=lead)
            elif engine.rank == lead:
                buffer = torch.empty(shape, dtype=dtype, device=engine.device)
                dist.recv(buffer, src=source)
                joined[name] = buffer.cpu()
    return joined
