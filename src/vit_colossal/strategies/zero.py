"""zero1 and zero2: the optimizer's state is divided among the ranks, under zero2 the gradients too.

Rajbhandari et al. 2020, arXiv:1910.02054; ColossalAI's low-level ZeRO.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from colossalai.booster.mixed_precision import MixedPrecision
from colossalai.booster.plugin.plugin_base import Plugin
from colossalai.zero.low_level import LowLevelZeroOptimizer

from vit_colossal.model.fused_adamw import FusedAdamW, Place
from vit_colossal.plan.plan import RunPlan
from vit_colossal.runtime.transfers import ZeroPlugin
from vit_colossal.strategies.parts import Part
from vit_colossal.strategies.precision import INITIAL_LOSS_SCALE
from vit_colossal.strategies.strategy import Boosted, MemoryUse, Strategy


class Zero1(Strategy):
    """The optimizer's state is divided; 16-bit weights with fp32 masters below fp32."""

    scaler_owner = "mixed_precision_mixin"
    stage = 1

    def plugin(self, plan: RunPlan) -> tuple[Plugin, MixedPrecision | None]:
        plugin = ZeroPlugin(
            stage=self.stage,
            precision=plan.config.precision,
            initial_scale=INITIAL_LOSS_SCALE,
            max_norm=plan.config.clip_grad_norm,
            reduce_bucket_size_in_m=plan.bucket_elements // 2**20,
            # One GPU has nobody to send to, and each overlapped backward waits for the device.
            overlap_communication=plan.device.kind == "cpu" or plan.dims.dp > 1,
        )
        return plugin, None

    def trained_part(
        self, boosted: Boosted, name: str, parameter: torch.nn.Parameter, tp_dim: int | None
    ) -> Part:
        return shard_of(boosted.optimizer, name, parameter, tp_dim)

    def settle(self, boosted: Boosted) -> None:
        tell_places(boosted.optimizer)

    def refresh(self, boosted: Boosted) -> None:
        gather_shards(boosted.optimizer)


class Zero2(Zero1):
    """The gradients are divided too."""

    stage = 2

    def memory(self, boosted: Boosted, parts: list[Part]) -> MemoryUse:
        use = super().memory(boosted, parts)
        return MemoryUse(use.weights, use.weights // boosted.plan.dims.dp, use.masters)


def shard_of(
    optimizer: LowLevelZeroOptimizer, name: str, parameter: torch.nn.Parameter, tp_dim: int | None
) -> Part:
    """The shard of a parameter that this rank updates."""
    shard = optimizer.working_to_master_param[id(parameter)]
    rank = optimizer.pid_to_bucket_store[id(parameter)].local_rank
    start = rank * shard.numel()
    # The last shards are padded to equal lengths; the padding is nobody's state.
    length = max(0, min(shard.numel(), parameter.numel() - start))
    return Part(name, shard[:length], shard, parameter, tp_dim, start)


def tell_places(optimizer: LowLevelZeroOptimizer) -> None:
    """Let an optimizer that has to know it see where the shards lie in their parameters."""
    if isinstance(optimizer.optim, FusedAdamW):
        for working in optimizer.param_to_pg:
            part = shard_of(optimizer, "", working, None)
            place = Place(part.start or 0, working.numel())
            optimizer.optim.places[id(part.owner)] = place


def gather_shards(optimizer: LowLevelZeroOptimizer) -> None:
    """Make the weights follow the shards of all ranks."""
    for working, padded in optimizer._working_param_to_padded_working_param.items():
        shard = optimizer.working_to_master_param[id(working)].to(padded)
        dist.all_gather_into_tensor(padded, shard, group=optimizer.param_to_pg[working])
