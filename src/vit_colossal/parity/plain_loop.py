"""The reference: a plain single-process PyTorch loop, without ColossalAI or process groups.

It trains on the batches of a plan in the plan's parts (replicas, accumulation, micro-batches), so
that a layout which only rounds where it has to comes out bit for bit the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.nn.functional import linear
from transformers import PreTrainedModel

from vit_colossal.config.plugins import facts_of
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.data.batches import train_batches
from vit_colossal.data.loaders import Shard, TrainBatches
from vit_colossal.data.mixing import mix_pixels
from vit_colossal.data.prepare import RunData
from vit_colossal.data.samples import Batch
from vit_colossal.data.transforms import normalize
from vit_colossal.families.family import Family
from vit_colossal.families.names import named_weights
from vit_colossal.model.adapters import adapt
from vit_colossal.model.build import build_model
from vit_colossal.model.loss import criterion
from vit_colossal.model.optim import build_schedule, ema_decay, freeze, parameter_groups
from vit_colossal.parity.trace import Trace
from vit_colossal.plan.parallel_dims import BatchPlan, ParallelDims
from vit_colossal.plan.plan import RunPlan
from vit_colossal.runtime.group import compute_exactly
from vit_colossal.strategies.drop_path import take_over


@dataclass(frozen=True)
class Grouping:
    """How the loop cuts a global batch, and in which order it sums.

    Attributes:
        replicas: parts whose gradients data parallelism would average.
        parts: consecutive parts of one replica's samples (accumulation x micro-batches).
        backwards: sum the parts last to first.
        split_products: compute the matrix products that tensor parallelism of this degree splits
            in as many pieces, and sum the pieces.
    """

    replicas: int = 1
    parts: int = 1
    backwards: bool = False
    split_products: int = 1

    @classmethod
    def of(cls, plan: RunPlan) -> Grouping:
        """The grouping that mirrors a layout."""
        batches = plan.batches
        parts = batches.accumulation * batches.num_microbatches
        return cls(replicas=batches.dp, parts=parts, split_products=plan.dims.tp)


def train_plain(plan: RunPlan, data: RunData, total_steps: int, grouping: Grouping) -> Trace:
    """Run the plan's training on this process alone and record every step.

    Precision follows the plan: fp32; bf16 autocast over fp32 weights for ddp; else bf16 weights
    with fp32 master copies that AdamW updates.

    Args:
        plan: model, device, batch, optimizer and schedule; its degrees are not used.
        data: the decoded splits.
        total_steps: optimizer steps.
        grouping: how to cut and sum.
    """
    config, device = plan.config, plan.device.kind
    if device == "cuda":
        compute_exactly()
    model = _build(plan, data).to(device)
    if grouping.split_products > 1:
        _split_products(model, plan.spec.family, grouping.split_products)
    halved = config.precision == "bf16" and not facts_of(config.plugin).autocasts
    master = model
    if halved:
        # As the plugins do: the masters start from the weights' 16-bit values.
        model.to(torch.bfloat16)
        master = _build(plan, data).to(device)
        master.load_state_dict(model.state_dict())
    model.train()  # transformers loads a pretrained one for evaluation
    drops = take_over(model, plan.spec, config.seed, plan.batches.global_batch, model.device)
    freeze(master, plan.spec, config)
    freeze(model, plan.spec, config)
    optimizer = _optimizer(parameter_groups(master, plan.spec, config), config, device)
    schedule = build_schedule(optimizer, config, total_steps)
    losses, norms, lrs = list[float](), list[float](), list[float]()
    averages = [p.detach().clone() for p in master.parameters()]
    source = _whole_batches(plan, data)
    for batch in _global_batches(source, total_steps):
        lrs.append(float(schedule.get_last_lr()[0]))
        drops.begin(len(losses), _places(batch, grouping))
        losses.append(_backward(model, batch, plan, data, grouping, source.class_weights))
        if halved:
            for mine, working in zip(master.parameters(), model.parameters(), strict=True):
                mine.grad, working.grad = _as_float(working.grad), None
        norms.append(_clip(master, config.clip_grad_norm))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if halved:
            _assign(model, list(master.parameters()))
        if config.ema is not None:
            weight = 1 - ema_decay(config.ema, len(losses))
            torch._foreach_lerp_(averages, [p.detach() for p in master.parameters()], weight)
    if config.ema is not None:
        _assign(model, averages)
    weights = {name: p.detach().float().cpu().clone() for name, p in named_weights(model)}
    correct = count_correct(model, plan, data)
    return Trace(losses, norms, lrs, correct, len(data.evaluation), weights)


def _build(plan: RunPlan, data: RunData) -> PreTrainedModel:
    model = build_model(plan.spec, data.labels, plan.config.seed)
    return adapt(model, plan.spec, plan.config)


def _optimizer(
    groups: list[dict[str, Any]], config: TrainConfig, device: str
) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, foreach=False)
    return torch.optim.AdamW(
        groups,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        # On CUDA the kernel that every plugin updates with; on the CPU they round as this does.
        fused=device == "cuda",
        foreach=False,
    )


@torch.no_grad()
def _assign(model: torch.nn.Module, values: Sequence[torch.Tensor]) -> None:
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.copy_(value)


def count_correct(model: PreTrainedModel, plan: RunPlan, data: RunData) -> int:
    """Correct top-1 predictions on the evaluation split, in batches of the plan's size."""
    model.eval()
    correct, size = 0, plan.batches.forward_batch
    labels = torch.from_numpy(data.evaluation.labels)
    with torch.no_grad():
        for start in range(0, len(data.evaluation), size):
            images = torch.from_numpy(data.evaluation.images[start : start + size].copy())
            pixels = _normalized(images.to(model.device), data)
            predicted = _logits(model, pixels, plan).argmax(dim=-1).cpu()
            correct += int((predicted == labels[start : start + size]).sum())
    model.train()
    return correct


def _whole_batches(plan: RunPlan, data: RunData) -> TrainBatches:
    """The run's batches on one process, in one piece and without padding."""
    whole = replace(
        plan,
        batches=BatchPlan(plan.batches.global_batch, 1, 1, 1),
        dims=ParallelDims(1, 1, 1),
        config=plan.config.replace(compile=False),
    )
    return train_batches(whole, data, Shard(0, 1))


def _global_batches(source: TrainBatches, total_steps: int) -> list[Batch]:
    """Every step's global batch, in the run's order."""
    batches: list[Batch] = []
    epoch = 0
    while len(batches) < total_steps:
        batches += [step[0] for step in source.batches(epoch)]
        epoch += 1
    return batches[:total_steps]


def _backward(
    model: PreTrainedModel,
    batch: Batch,
    plan: RunPlan,
    data: RunData,
    grouping: Grouping,
    class_weights: torch.Tensor | None,
) -> float:
    """Gradients of one global batch; returns its mean loss, summed as the layout would.

    A batch that names what its losses are divided by may be smaller and is cut as far as it goes.
    """
    device = model.device
    pixels, targets = _normalized(batch.images.to(device), data), batch.labels.to(device)
    smoothing, partners, weight = plan.config.label_smoothing or 0.0, targets, 1.0
    if batch.mix is not None:
        first = _normalized(batch.mix.image.to(device), data)
        pixels = mix_pixels(pixels, first, batch.mix.draw)
        partners, weight = batch.mix.labels.to(device), batch.mix.draw.weight
    divisor = None if batch.total is None else pixels.new_tensor(batch.total)
    if class_weights is not None:
        class_weights = class_weights.to(device)
    pieces = _pieces((pixels, targets, partners), grouping)
    replica_losses = []
    for piece in pieces:
        total = torch.zeros((), device=device)
        for images, labels, others in piece:
            logits = _logits(model, images, plan)
            mixed_in = None if batch.mix is None else others
            loss = criterion(logits, labels, smoothing, mixed_in, weight, divisor, class_weights)
            loss = loss / len(piece) if divisor is None else loss * len(pieces)
            (loss / len(pieces)).backward()
            total += loss.detach()
        replica_losses.append(total.item())
    return sum(replica_losses) / len(replica_losses)


def _pieces(
    values: Sequence[torch.Tensor], grouping: Grouping
) -> list[list[tuple[torch.Tensor, ...]]]:
    """A batch's tensors, cut alike: for each replica, for each of its parts."""
    replicas = zip(*(each.chunk(grouping.replicas) for each in values), strict=True)
    pieces = [
        list(zip(*(each.chunk(grouping.parts) for each in replica), strict=True))
        for replica in replicas
    ]
    return [piece[::-1] for piece in pieces[::-1]] if grouping.backwards else pieces


def _places(batch: Batch, grouping: Grouping) -> list[torch.Tensor]:
    """The places in the global batch of each forward pass of ``_backward``, in its order."""
    pieces = _pieces([torch.arange(len(batch.labels))], grouping)
    return [part for piece in pieces for [part] in piece]


def _normalized(images: torch.Tensor, data: RunData) -> torch.Tensor:
    return normalize(images, data.preprocessing)


def _logits(model: PreTrainedModel, pixels: torch.Tensor, plan: RunPlan) -> torch.Tensor:
    dtype = next(model.parameters()).dtype
    autocast = plan.config.precision == "bf16" and dtype == torch.float32
    device = plan.device.kind
    with torch.autocast(device, dtype=torch.bfloat16) if autocast else nullcontext():
        return model(pixel_values=pixels.to(dtype)).logits


def _clip(model: PreTrainedModel, max_norm: float) -> float:
    """Clip as PyTorch does; the norm is reported in double precision."""
    squares = sum(p.grad.double().square().sum() for p in model.parameters() if p.grad is not None)
    norm = float(torch.as_tensor(squares).sqrt())
    if max_norm > 0:
        # On CUDA on lists of tensors, as ddp does.
        foreach = model.device.type == "cuda"
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm, foreach=foreach)
    return norm


def _as_float(grad: torch.Tensor | None) -> torch.Tensor | None:
    return None if grad is None else grad.float()


def _split_products(model: torch.nn.Module, row: Family, degree: int) -> None:
    """Make the encoder's products round as tensor parallelism of ``degree`` does.

    Column-parallel layers compute slices of their outputs, and the gradients of their input are
    summed; row-parallel ones sum partial products (Shoeybi et al. 2019, section 3).
    """
    if row.encoder is None:
        return
    layers = f"{row.backbone}.{row.blocks}."
    for name, module in model.named_modules():
        if not (name.startswith(layers) and isinstance(module, torch.nn.Linear)):
            continue
        if name.endswith(row.encoder.columns):
            module.forward = partial(_column_parallel, module, degree)  # type: ignore[method-assign]
        elif name.endswith(row.encoder.rows):
            module.forward = partial(_row_parallel, module, degree)  # type: ignore[method-assign]


def _column_parallel(layer: torch.nn.Linear, degree: int, x: torch.Tensor) -> torch.Tensor:
    weights, bias = layer.weight.chunk(degree), layer.bias
    biases = [None] * degree if bias is None else bias.chunk(degree)
    pieces = [linear(x, w, b) for w, b in zip(weights, biases, strict=True)]
    return torch.cat(pieces, dim=-1)


def _row_parallel(layer: torch.nn.Linear, degree: int, x: torch.Tensor) -> torch.Tensor:
    pairs = zip(x.chunk(degree, dim=-1), layer.weight.chunk(degree, dim=1), strict=True)
    total, *others = [linear(piece, weight) for piece, weight in pairs]
    for other in others:
        total = total + other
    return total + layer.bias
