"""Optimizers, their parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, get_scheduler
from transformers.pytorch_utils import ALL_LAYERNORM_LAYERS
from transformers.trainer_pt_utils import get_parameter_names

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.model.fused_adamw import FusedAdamW
from vit_colossal.plan.model_spec import ModelSpec

#: transformers' names of the schedules.
SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant_with_warmup",
    "cosine-restarts": "cosine_with_restarts",
    "constant-cooldown": "warmup_stable_decay",
}

#: Name patterns that transformers' Trainer leaves without weight decay.
_NOT_DECAYED = ["bias", "layernorm", "rmsnorm"]


def freeze(model: PreTrainedModel, spec: ModelSpec, config: TrainConfig) -> None:
    """Take from training what ``--freeze`` or ``--freeze-layers`` names; before boosting.

    And what gets no gradient in any case: DDP would wait for it, and ZeRO decay it.
    """
    fixed = -1 if config.freeze_layers is None else config.freeze_layers
    for module_name, parameter in model.named_parameters():
        name = spec.family.published(module_name)
        backbone = config.freeze == "backbone" and not spec.family.is_head(name)
        deep = spec.family.depth_of(name, spec.shape.depths) <= fixed
        if backbone or deep or spec.family.is_unused(name):
            parameter.requires_grad_(False)


def parameter_groups(
    model: PreTrainedModel, spec: ModelSpec, config: TrainConfig
) -> list[dict[str, Any]]:
    """The trained parameters: decayed weights first, then biases and norm weights without decay.

    The split is transformers' own (``Trainer.get_decay_parameter_names``). With a layer-wise decay
    there are such groups for each depth, from the head down, with the learning rate
    ``lr * layer_decay ** n`` for n depths below the head; the final norm stands beside the head
    (as in BEiT, Bao et al. 2022, arXiv:2106.08254, and in timm).
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = {name for name, _ in named}
    if config.weight_decay and not config.decay_all:
        decayed = set(get_parameter_names(model, ALL_LAYERNORM_LAYERS, _NOT_DECAYED))
    depths, rate = spec.shape.depths, config.layer_decay or 1.0
    row, top = spec.family, sum(spec.shape.depths) + 1
    depth = {name: row.depth_of(row.published(name), depths) for name, _ in named}
    below = {name: top - depth[name] if rate < 1 else 0 for name, _ in named}
    groups = []
    for steps in sorted(set(below.values())):
        lr = (config.lr or 0.0) * rate**steps
        for decay in (True, False):
            params = [p for n, p in named if below[n] == steps and (n in decayed) == decay]
            if params:
                weight_decay = config.weight_decay if decay else 0.0
                groups.append({"params": params, "weight_decay": weight_decay, "lr": lr})
    return groups


def build_optimizer(groups: list[dict[str, Any]], config: TrainConfig, device: str) -> Optimizer:
    """PyTorch's optimizer of :func:`parameter_groups`, which rounds alike under every plugin."""
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.lr or 0.0, momentum=config.momentum, foreach=True)
    return adamw(groups, config, device)


def adamw(groups: list[dict[str, Any]], config: TrainConfig, device: str) -> Optimizer:
    """PyTorch's AdamW of :func:`parameter_groups`.

    Fused on CUDA, and where Trainer's run is imitated, which has it so; else on the CPU the
    operations of its plain loop over tensors, where every plugin then rounds alike.
    """
    betas = (config.adam_beta1, config.adam_beta2)
    if device == "cpu" and config.order == "transformers":
        return FusedAdamW(groups, betas=betas, eps=config.adam_eps)
    # On the CPU lists of tensors round as single ones do. PyTorch's fused kernel is twice as fast,
    # but rounds the elements that fill no whole vector otherwise: an element's bits then depend on
    # where a shard begins and ends (torch 2.5.1 and 2.14.1; tests/unit/model/test_optim.py).
    fused = device == "cuda"
    return AdamW(groups, betas=betas, eps=config.adam_eps, fused=fused, foreach=not fused)


def ema_decay(decay: float, step: int) -> float:
    """The decay after ``step`` steps: (1 + n) / (10 + n) until that reaches ``decay``.

    A constant decay would leave the initial weights in the average of a short run. The formula is
    that of ``tf.train.ExponentialMovingAverage``.
    """
    return min(decay, (1 + step) / (10 + step))


def rate_after(step: int, config: TrainConfig, total_steps: int) -> float:
    """The learning rate of the schedule once ``step`` optimizer steps are done."""
    optimizer = AdamW([torch.zeros(1, requires_grad=True)], lr=config.lr or 0.0)
    schedule: Any = build_schedule(optimizer, config, total_steps)
    return float(schedule.lr_lambdas[0](step) * (config.lr or 0.0))


def build_schedule(optimizer: Optimizer, config: TrainConfig, total_steps: int) -> LRScheduler:
    """Linear warm-up over ``ceil(warmup_ratio * total_steps)`` steps, then the chosen shape."""
    return get_scheduler(
        SCHEDULES[config.lr_schedule],
        optimizer,
        num_warmup_steps=math.ceil((config.warmup_ratio or 0.0) * total_steps),
        num_training_steps=total_steps,
        scheduler_specific_kwargs=schedule_shape(config, total_steps),
    )


def schedule_shape(config: TrainConfig, total_steps: int) -> dict[str, Any]:
    """What transformers' function of the schedule takes beside the numbers of steps."""
    if config.lr_schedule == "cosine-restarts":
        return {"num_cycles": config.lr_cycles}
    if config.lr_schedule == "constant-cooldown":
        steps = math.ceil(config.cooldown_ratio * total_steps)
        return {"num_decay_steps": steps, "decay_type": "linear"}
    return {}
