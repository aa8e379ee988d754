"""The whole training state by parameter name: collected from any layout, put into any layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors import safe_open

from vit_colossal.config.optimizers import moments_of
from vit_colossal.model.loss import criterion
from vit_colossal.strategies.engine import Engine
from vit_colossal.strategies.parts import Part


class _Piece(NamedTuple):
    """A part as it is announced to the lead rank."""

    name: str
    tp_dim: int | None
    start: int | None
    shape: tuple[int, ...]
    frozen: bool

    @classmethod
    def of(cls, part: Part) -> _Piece:
        return cls(part.name, part.tp_dim, part.start, tuple(part.master.shape), part.frozen)


@dataclass
class TrainState:
    """Everything that the next step depends on.

    Attributes:
        weights: fp32 master weights by name, full shapes.
        moments: AdamW's ``NAME.exp_avg`` and ``NAME.exp_avg_sq``, others' by their names in
            ``config.optimizers``; full shapes; empty before a first step.
        ema: the weights' average by name, full shapes; empty where none is kept.
        rng: ``rankN.cpu`` and ``rankN.cuda`` generator states, uint8.
        values: steps of the optimizer and of the schedule, and the gradient scaler, as JSON.
    """

    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    moments: dict[str, torch.Tensor] = field(default_factory=dict)
    ema: dict[str, torch.Tensor] = field(default_factory=dict)
    rng: dict[str, torch.Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def collect(engine: Engine) -> TrainState | None:
    """Bring the state together on the lead rank; None elsewhere. Every rank has to call this."""
    parts = engine.parts
    if engine.coordinate.dp:  # what all replicas hold, the first one sends
        parts = [part for part in parts if part.start is not None]
    described = [_Piece.of(part) for part in parts]
    step = max((_step_of(engine, part) for part in parts), default=0)
    mine = (described, step, _generator_states(engine))
    everyone: list[Any] = [None] * engine.dims.world_size
    dist.all_gather_object(everyone, mine)
    moments = moments_of(engine.plan.config) if step else ()
    kinds = ("weight", *moments, *(("ema",) if engine.ema else ()))
    state = TrainState()
    for rank, (pieces, _, rng) in enumerate(everyone):
        state.rng |= {f"rank{rank}.{kind}": value for kind, value in rng.items()}
        _transfer(engine, rank, kinds, parts, pieces, state)
    if not engine.is_lead:
        return None
    state.values = {
        "optimizer_step": step,
        "schedule_step": engine.schedule.last_epoch,
        "scaler": engine.strategy.loss_scale(engine),
    }
    return state


def not_finite(state: TrainState) -> str | None:
    """The first weight or moment with a NaN or infinity; the loss shows it one step later only."""
    tensors = {**state.weights, **state.moments, **state.ema}
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)


def _transfer(
    engine: Engine,
    source: int,
    kinds: tuple[str, ...],
    parts: list[Part],
    pieces: list[_Piece],
    state: TrainState,
) -> None:
    """Send one rank's pieces to the lead, kind by kind as one vector, and put them in place."""
    lead = engine.dims.lead_rank
    if engine.rank not in (source, lead):
        return
    for kind in kinds:
        sent = [piece for piece in pieces if kind == "weight" or not piece.frozen]
        sizes = [torch.Size(piece.shape).numel() for piece in sent]
        if not sum(sizes):
            continue
        if engine.rank == source:
            mine = [part for part in parts if kind == "weight" or not part.frozen]
            # Gemini may hold some on the device, without room there for all, others on the host.
            place = torch.device("cpu") if source == lead else engine.device
            vector = torch.cat([_values(engine, part, kind).flatten().to(place) for part in mine])
        else:
            vector = torch.empty(sum(sizes), device=engine.device)
        if source != lead:
            if engine.rank == source:
                dist.send(vector, dst=lead)
                continue
            dist.recv(vector, src=source)
        tp_index = engine.dims.coordinate(source).tp
        for piece, values in zip(sent, vector.cpu().split(sizes), strict=True):
            full = _full_tensor(engine, state, piece.name, kind)
            _put(full, piece, values, tp_index, engine.dims.tp)


def _put(full: torch.Tensor, piece: _Piece, values: torch.Tensor, tp_index: int, tp: int) -> None:
    """Write one piece's values into the full tensor."""
    local = full if piece.tp_dim is None else full.chunk(tp, dim=piece.tp_dim)[tp_index]
    if piece.start is None:
        local.copy_(values.view(piece.shape))
        return
    flat = local.flatten()
    flat[piece.start : piece.start + len(values)] = values
    local.copy_(flat.view(local.shape))


def _full_tensor(engine: Engine, state: TrainState, name: str, kind: str) -> torch.Tensor:
    stores = {"weight": state.weights, "ema": state.ema}
    store, key = stores.get(kind, state.moments), name if kind in stores else f"{name}.{kind}"
    if key not in store:
        store[key] = torch.empty(engine.shapes[name], dtype=torch.float32)
    return store[key]


def restore(engine: Engine, folder: Path, values: dict[str, Any], *, same_layout: bool) -> bool:
    """Put a saved state into this rank's pieces; every rank has to call this.

    Args:
        engine: freshly built.
        folder: with ``weights.safetensors``, ``moments.safetensors``, ``rng.safetensors`` and,
            where an average is kept, ``ema.safetensors``.
        values: ``TrainState.values`` as saved.
        same_layout: generator states fit too.

    Returns:
        Whether the continuation is bit-exact.
    """
    settle_reduction_order(engine)
    step = int(values["optimizer_step"])
    inner = engine.torch_optimizer
    at = engine.coordinate.tp, engine.dims.tp
    with (
        torch.no_grad(),
        safe_open(folder / "weights.safetensors", framework="pt") as weights,
        safe_open(folder / "moments.safetensors", framework="pt") as moments,
    ):
        for part in engine.parts:
            part.master.copy_(part.piece_of(weights.get_tensor(part.name), *at))
            if step and not part.frozen:
                state = inner.state[part.owner]
                if engine.plan.config.optimizer != "sgd":  # which does not count
                    state["step"] = _step_value(inner, part, step)
                for kind in moments_of(engine.plan.config):
                    saved = part.piece_of(moments.get_tensor(f"{part.name}.{kind}"), *at)
                    state[kind] = _empty_moment(part)
                    state[kind].view(-1)[: saved.numel()] = saved.flatten()
        engine.strategy.refresh(engine)
    _restore_average(engine, folder)
    _restore_schedule(engine, int(values["schedule_step"]))
    if values["scaler"] is not None:
        engine.strategy.restore_loss_scale(engine, values["scaler"])
    return same_layout and _restore_generators(engine, folder / "rng.safetensors")


def _restore_average(engine: Engine, folder: Path) -> None:
    if engine.ema is None:
        return
    with safe_open(folder / "ema.safetensors", framework="pt") as averages:
        for part in engine.parts:
            if not part.frozen:
                full = averages.get_tensor(part.name)
                piece = part.piece_of(full, engine.coordinate.tp, engine.dims.tp)
                engine.ema.values[part.name].copy_(piece)


def _restore_schedule(engine: Engine, step: int) -> None:
    """Take the schedule to ``step``: its rates are a function of the step and the peak rate."""
    schedule: Any = engine.schedule
    schedule.last_epoch, schedule._step_count = step, step + 1
    rates = [
        rate(step) * peak for rate, peak in zip(schedule.lr_lambdas, schedule.base_lrs, strict=True)
    ]
    schedule._last_lr = rates
    for group, lr in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = lr


def settle_reduction_order(engine: Engine) -> None:
    """Let DDP re-order its gradient buckets now, as it did after the first step of the saved run.

    The order decides how sums over more than two replicas round; a fresh process would reduce its
    first step in another order than the uninterrupted run. One throw-away backward settles it.
    """
    if not engine.strategy.reorders_sums(engine):
        return
    batch = engine.plan.batches.forward_batch
    logits = engine.model(pixel_values=engine.pixels(engine.blank(batch))).logits
    labels = torch.zeros(batch, dtype=torch.int64, device=engine.device)
    engine.booster.backward(criterion(logits, labels), engine.optimizer)
    engine.optimizer.zero_grad()


def _values(engine: Engine, part: Part, kind: str) -> torch.Tensor:
    if kind == "weight":
        return part.master.detach().float()
    if kind == "ema" and engine.ema is not None:
        return engine.ema.values[part.name]
    return engine.torch_optimizer.state[part.owner][kind].reshape(-1)[: part.master.numel()].float()


def _empty_moment(part: Part) -> torch.Tensor:
    """Shaped as the optimizer wants it: ZeRO pads its shards, Gemini's owner is an empty stub."""
    like = part.master if part.working is None else part.owner
    return torch.zeros_like(like, dtype=torch.float32)


def _step_of(engine: Engine, part: Part) -> int:
    """Updates so far; SGD does not count them, and the schedule's steps do for it."""
    state = engine.torch_optimizer.state.get(part.owner)
    return int(state.get("step", engine.schedule.last_epoch)) if state else 0


def _step_value(inner: torch.optim.Optimizer, part: Part, step: int) -> int | torch.Tensor:
    """HybridAdam counts in Python; PyTorch in a tensor, on the device for the fused kernel."""
    if part.working is None:
        return step
    device = part.master.device if inner.defaults.get("fused") else "cpu"
    return torch.tensor(float(step), device=device)


def _generator_states(engine: Engine) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state(), **engine.strategy.generators(engine)}
    if engine.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(engine.device)
    return states


def _restore_generators(engine: Engine, file: Path) -> bool:
    """Whether all are there: earlier versions left out those that a strategy keeps."""
    with safe_open(file, framework="pt") as saved:
        prefix = f"rank{engine.rank}."
        states = {
            name.removeprefix(prefix): saved.get_tensor(name)
            for name in saved.keys()  # noqa: SIM118 - it is no mapping
            if name.startswith(prefix)
        }
    torch.set_rng_state(states["cpu"])
    if engine.device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], engine.device)
    if not engine.strategy.generators(engine).keys() <= states.keys():
        return False
    engine.strategy.restore_generators(engine, states)
    return True
