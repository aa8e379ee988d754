"""gemini: weights, gradients and optimizer state lie in chunks, which the ranks divide.

ColossalAI's Gemini (Fang et al. 2022, arXiv:2108.05818).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from colossalai.booster.mixed_precision import MixedPrecision
from colossalai.booster.plugin import GeminiPlugin
from colossalai.booster.plugin.plugin_base import Plugin
from colossalai.nn.optimizer import HybridAdam

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.families.names import named_weights
from vit_colossal.plan.plan import RunPlan
from vit_colossal.runtime.kernels import kernels_in_use
from vit_colossal.strategies.parts import Part
from vit_colossal.strategies.precision import INITIAL_LOSS_SCALE
from vit_colossal.strategies.strategy import Boosted, MemoryUse, Strategy


class Gemini(Strategy):
    """16-bit weights in chunks, each paired with a chunk of fp32 masters."""

    scaler_owner = "mix_precision_mixin"

    def plugin(self, plan: RunPlan) -> tuple[Plugin, MixedPrecision | None]:
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
            # Off: the reduction's stream still reads a chunk's gathered memory when that has been
            # freed for other streams to write to (`Chunk.reduce`); and the backward ends in a wait.
            enable_async_reduce=False,
            # Pinned memory only means something with a device to copy to.
            pin_memory=on_cuda,
            initial_scale=INITIAL_LOSS_SCALE,
            max_norm=config.clip_grad_norm,
        )
        return plugin, None

    def optimizer(
        self, groups: list[dict[str, Any]], config: TrainConfig, device: str
    ) -> torch.optim.Optimizer:
        # Gemini takes it by exact type.
        betas = (config.adam_beta1, config.adam_beta2)
        return HybridAdam(groups, betas=betas, eps=config.adam_eps)

    def optimizer_kernel(self, device: str) -> str:
        kind = kernels_in_use()["fused_adam" if device == "cuda" else "cpu_adam"]
        return f"HybridAdam ({kind})"

    def parts(self, boosted: Boosted) -> Iterator[Part]:
        """Slices of the fp32 chunks, or of this rank's shard of a chunk."""
        for name, parameter in named_weights(boosted.model.unwrap()):
            if not parameter.requires_grad:  # left out of the chunks
                yield Part(name, parameter.detach(), parameter, parameter, frozen=True)
        optimizer, row = boosted.optimizer, boosted.plan.spec.family
        for index, fake in optimizer.id_to_fake_params.items():
            parameter = optimizer.id_to_real_params[index]
            chunk = optimizer.param_to_chunk16[fake]
            begin, start, length = optimizer.get_offsets(index)
            master = chunk.paired_chunk.payload[begin : begin + length]
            name = row.published(boosted.model.param2name[parameter])
            yield Part(name, master, fake, None, None, start)

    def refresh(self, boosted: Boosted) -> None:
        for chunk in boosted.optimizer.chunk16_set:
            chunk.payload.copy_(chunk.paired_chunk.payload)
            if chunk.cuda_shard is not None:
                # A copy of it on the host, if there is one, is out of date.
                chunk.cpu_vis_flag = False

    def weights(self, boosted: Boosted) -> dict[str, torch.Tensor]:
        """The updated values lie in fp32 chunks; evaluation reads them in 16 bits."""
        model, row = boosted.model, boosted.plan.spec.family
        return {
            row.published(name): tensor.to("cpu", model.mixed_precision, copy=True)
            for name, tensor in model.state_dict(only_rank_0=False).items()
            if row.published(name) in boosted.shapes
        }

    def memory(self, boosted: Boosted, parts: list[Part]) -> MemoryUse:
        updated = sum(part.master.numel() for part in parts)
        # Gradients are kept in the place of the weights, unless they are accumulated.
        gradients = 2 * updated if boosted.plan.config.grad_accumulation > 1 else 0
        return MemoryUse(2 * updated, gradients, 4 * updated)
