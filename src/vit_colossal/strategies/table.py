"""The booster factory: a name and a validated plan in, a configured ColossalAI booster out.

To add a plugin, write one small function, add it to the table, and add a row to the layouts of
``tests/distributed``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from colossalai.booster import Booster
from colossalai.booster.mixed_precision import FP16TorchMixedPrecision, MixedPrecision
from colossalai.booster.plugin import GeminiPlugin, TorchDDPPlugin
from colossalai.booster.plugin.plugin_base import Plugin
from colossalai.interface import ModelWrapper, OptimizerWrapper

from vit_colossal.plan.plan import RunPlan
from vit_colossal.strategies.transfers import HybridPlugin, ZeroPlugin
from vit_colossal.strategies.vit_policy import ViTPolicy

#: First loss scale under fp16: PyTorch's own default, the same for every plugin.
INITIAL_LOSS_SCALE = 2.0**16


def build_booster(plan: RunPlan) -> Booster:
    """The booster that ``plan.config.plugin`` names. The process group must exist."""
    plugin, mixed_precision = _PLUGINS[plan.config.plugin](plan)
    return Booster(plugin=plugin, mixed_precision=mixed_precision)


def _ddp(plan: RunPlan) -> tuple[Plugin, MixedPrecision | None]:
    precision = plan.config.precision
    plugin = TorchDDPPlugin(gradient_as_bucket_view=True)
    if precision == "fp16":
        return plugin, FP16TorchMixedPrecision(init_scale=INITIAL_LOSS_SCALE)
    return plugin, AutocastBf16(plan.device.kind) if precision == "bf16" else None


def _low_level_zero(plan: RunPlan, stage: int) -> tuple[Plugin, MixedPrecision | None]:
    plugin = ZeroPlugin(
        stage=stage,
        precision=plan.config.precision,
        initial_scale=INITIAL_LOSS_SCALE,
        max_norm=plan.config.clip_grad_norm,
        # One GPU has nobody to send to, and each overlapped backward ends in a wait for the device.
        overlap_communication=plan.device.kind == "cpu" or plan.dims.dp > 1,
    )
    return plugin, None


def _zero1(plan: RunPlan) -> tuple[Plugin, MixedPrecision | None]:
    return _low_level_zero(plan, stage=1)


def _zero2(plan: RunPlan) -> tuple[Plugin, MixedPrecision | None]:
    return _low_level_zero(plan, stage=2)


def _gemini(plan: RunPlan) -> tuple[Plugin, MixedPrecision | None]:
    config, on_cuda = plan.config, plan.device.kind == "cuda"
    plugin = GeminiPlugin(
        precision=config.precision,
        placement_policy=config.gemini_placement,
        shard_param_frac=config.gemini_shard_param_frac,
        offload_optim_frac=config.gemini_offload_optim_frac,
        offload_param_frac=config.gemini_offload_param_frac,
        min_chunk_size_m=config.gemini_min_chunk_m,
        search_range_m=config.gemini_search_range_m,
        hidden_dim=config.gemini_hidden_dim,
        enable_gradient_accumulation=plan.batches.accumulation > 1,
        # Off: the reduction's stream still reads a chunk's gathered memory when that has been freed
        # for other streams to write to (`Chunk.reduce`); and the backward ends in a wait for it.
        enable_async_reduce=False,
        # Pinned memory only means something with a device to copy to.
        pin_memory=on_cuda,
        initial_scale=INITIAL_LOSS_SCALE,
        max_norm=config.clip_grad_norm,
    )
    return plugin, None


def _hybrid(plan: RunPlan) -> tuple[Plugin, MixedPrecision | None]:
    config = plan.config
    plugin = HybridPlugin(
        tp_size=plan.dims.tp,
        pp_size=plan.dims.pp,
        zero_stage=config.zero,
        precision=config.precision,
        num_microbatches=plan.batches.num_microbatches,
        initial_scale=INITIAL_LOSS_SCALE,
        max_norm=config.clip_grad_norm,
        gradient_as_bucket_view=True,
        custom_policy=ViTPolicy(),
    )
    return plugin, None


_PLUGINS: dict[str, Callable[[RunPlan], tuple[Plugin, MixedPrecision | None]]] = {
    "ddp": _ddp,
    "zero1": _zero1,
    "zero2": _zero2,
    "gemini": _gemini,
    "hybrid": _hybrid,
}


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
