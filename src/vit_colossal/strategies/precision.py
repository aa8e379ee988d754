"""Reduced precision: the first loss scale, and bf16 by autocast."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from colossalai.booster.mixed_precision import MixedPrecision
from colossalai.interface import ModelWrapper, OptimizerWrapper

#: First loss scale under fp16: PyTorch's own default, the same for every plugin.
INITIAL_LOSS_SCALE = 2.0**16


class AutocastBf16(MixedPrecision):
    """bf16 for DDP: fp32 weights and gradients, matrix products in bf16 through autocast.

    ColossalAI's ``BF16MixedPrecision`` is an empty class. The other plugins do something else in
    bf16: they keep bf16 weights and fp32 master copies.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def configure(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        criterion: Callable[..., torch.Tensor] | None = None,
    ) -> tuple[torch.nn.Module, OptimizerWrapper | None, Callable[..., torch.Tensor] | None]:
        return AutocastModel(model, self.device), optimizer, criterion


class AutocastModel(ModelWrapper):
    """A wrapped model whose forward pass runs under bf16 autocast."""

    def __init__(self, module: torch.nn.Module, device: str) -> None:
        super().__init__(module)
        self.device = device

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        autocast: AbstractContextManager[Any] = torch.autocast(self.device, dtype=torch.bfloat16)
        with autocast:
            return self.module(*args, **kwargs)

    def unwrap(self, unwrap_peft: bool = True) -> torch.nn.Module:
        return self.module.unwrap(unwrap_peft)
