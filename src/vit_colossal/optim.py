"""AdamW, its parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler
from transformers.pytorch_utils import ALL_LAYERNORM_LAYERS
from transformers.trainer_pt_utils import get_parameter_names

from vit_colossal.config import TrainConfig

#: transformers' names of the schedules.
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}

#: Name patterns that transformers' Trainer leaves without weight decay.
_NOT_DECAYED = ["bias", "layernorm", "rmsnorm"]


def parameter_groups(
    model: torch.nn.Module, weight_decay: float, *, decay_all: bool
) -> list[dict[str, object]]:
    """One group, or two: decayed weights first, then biases and norm weights without decay.

    The split is transformers' own (``Trainer.get_decay_parameter_names``). Every encoder layer
    has parameters in both groups, so no pipeline stage is left with an empty one.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if decay_all or weight_decay == 0:
        return [{"params": [p for _, p in named], "weight_decay": weight_decay}]
    decayed = set(get_parameter_names(model, ALL_LAYERNORM_LAYERS, _NOT_DECAYED))
    return [
        {"params": [p for name, p in named if name in decayed], "weight_decay": weight_decay},
        {"params": [p for name, p in named if name not in decayed], "weight_decay": 0.0},
    ]


def build_optimizer(model: torch.nn.Module, config: TrainConfig, device: str) -> Optimizer:
    """AdamW as the plugin wants it.

    Gemini takes ColossalAI's HybridAdam by exact type; all others PyTorch's own: fused on CUDA,
    one tensor at a time on the CPU, where every plugin then rounds alike.
    """
    groups = parameter_groups(model, config.weight_decay, decay_all=config.decay_all)
    betas = (config.adam_beta1, config.adam_beta2)
    lr = config.lr or 0.0
    if config.plugin == "gemini":
        from colossalai.nn.optimizer import HybridAdam

        return HybridAdam(groups, lr=lr, betas=betas, eps=config.adam_eps)
    fused = device == "cuda"
    return AdamW(groups, lr=lr, betas=betas, eps=config.adam_eps, fused=fused, foreach=False)


def build_schedule(optimizer: Optimizer, config: TrainConfig, total_steps: int) -> LRScheduler:
    """Linear warm-up over ``ceil(warmup_ratio * total_steps)`` steps, then the chosen shape."""
    warmup = math.ceil(config.warmup_ratio * total_steps)
    return get_scheduler(
        SCHEDULES[config.lr_schedule],
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=total_steps,
    )
