"""ddp: every rank holds the whole model, and the gradients are averaged (PyTorch's DDP)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from colossalai.booster.mixed_precision import FP16TorchMixedPrecision, MixedPrecision
from colossalai.booster.mixed_precision.fp16_torch import TorchAMPModule
from colossalai.booster.plugin import TorchDDPPlugin
from colossalai.booster.plugin.plugin_base import Plugin
from torch.nn.utils import clip_grad_norm_

from vit_colossal.plan.plan import RunPlan
from vit_colossal.strategies.precision import INITIAL_LOSS_SCALE, AutocastBf16, AutocastModel
from vit_colossal.strategies.strategy import Boosted, Strategy


class DDP(Strategy):
    """fp32 weights in every precision; 16 bits by autocast."""

    def plugin(self, plan: RunPlan) -> tuple[Plugin, MixedPrecision | None]:
        precision = plan.config.precision
        plugin = TorchDDPPlugin(gradient_as_bucket_view=True)
        if precision == "fp16":
            return plugin, FP16TorchMixedPrecision(init_scale=INITIAL_LOSS_SCALE)
        return plugin, AutocastBf16(plan.device.kind) if precision == "bf16" else None

    def update(self, boosted: Boosted) -> torch.Tensor | None:
        config, norm = boosted.plan.config, None
        if config.clip_grad_norm > 0:
            if config.precision == "fp16":
                boosted.optimizer.unscale_grad()
            # In the model's order of parameters, like everyone who clips a plain model: the wrapped
            # optimizer would go by groups, and add the same squares up in another order.
            norm = clip_grad_norm_(boosted.model.parameters(), config.clip_grad_norm)
        boosted.optimizer.step()
        return norm

    def no_sync(self, boosted: Boosted) -> AbstractContextManager[Any]:
        model = boosted.model
        while isinstance(model, (AutocastModel, TorchAMPModule)):
            model = model.module
        return boosted.booster.no_sync(model, boosted.optimizer)

    def loss_scale(self, boosted: Boosted) -> dict[str, float] | None:
        scaler = getattr(boosted.optimizer, "scaler", None)
        return None if scaler is None else scaler.state_dict()

    def restore_loss_scale(self, boosted: Boosted, values: Mapping[str, float]) -> None:
        # Another strategy's counts other things.
        if "growth_interval" in values:
            boosted.optimizer.scaler.load_state_dict(dict(values))
