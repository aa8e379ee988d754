"""hybrid: tensor-parallel layers, pipeline stages and replicas, on request with ZeRO-1 among these.

ColossalAI's ``HybridParallelPlugin``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.distributed as dist
from colossalai.amp.naive_amp.mixed_precision_optimizer import MixedPrecisionOptimizer
from colossalai.booster.mixed_precision import MixedPrecision
from colossalai.booster.plugin.plugin_base import Plugin
from colossalai.pipeline.schedule import OneForwardOneBackwardSchedule
from colossalai.shardformer.layer import DropoutForReplicatedInput
from colossalai.shardformer.layer.utils import Randomizer
from colossalai.zero.low_level import LowLevelZeroOptimizer
from torch.nn.utils import clip_grads_with_norm_

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.families.names import named_weights
from vit_colossal.plan.plan import RunPlan
from vit_colossal.runtime.clipping import total_norm_of_stages
from vit_colossal.runtime.transfers import HybridPlugin
from vit_colossal.strategies.parts import Part
from vit_colossal.strategies.policy import EncoderPolicy
from vit_colossal.strategies.precision import INITIAL_LOSS_SCALE
from vit_colossal.strategies.strategy import Boosted, StageInputs, Strategy
from vit_colossal.strategies.zero import gather_shards, shard_of, tell_places


class Hybrid(Strategy):
    """One of three optimizers, by precision and ``--zero``; each keeps its masters its way."""

    def plugin(self, plan: RunPlan) -> tuple[Plugin, MixedPrecision | None]:
        config = plan.config
        plugin = HybridPlugin(
            tp_size=plan.dims.tp,
            pp_size=plan.dims.pp,
            num_layers_per_stage=list(plan.stages),
            zero_stage=config.zero,
            precision=config.precision,
            num_microbatches=plan.batches.num_microbatches,
            initial_scale=INITIAL_LOSS_SCALE,
            max_norm=0.0 if _clips_exactly(config) else config.clip_grad_norm,
            gradient_as_bucket_view=True,
            zero_bucket_size_in_m=plan.bucket_elements // 2**20,
            custom_policy=EncoderPolicy(plan.spec),
        )
        return plugin, None

    def replicas(self, boosted: Boosted) -> dist.ProcessGroup:
        return boosted.booster.plugin.dp_group

    def stages(self, boosted: Boosted) -> dist.ProcessGroup:
        return boosted.booster.plugin.pp_group

    def update(self, boosted: Boosted) -> torch.Tensor | float | None:
        config = boosted.plan.config
        if not _clips_exactly(config):
            return super().update(boosted)
        named = dict(named_weights(boosted.model.unwrap()))
        gradients = {name: p.grad for name, p in named.items() if p.grad is not None}
        norm = total_norm_of_stages(gradients, list(boosted.shapes), self.stages(boosted))
        clip_grads_with_norm_(named.values(), config.clip_grad_norm, norm)
        boosted.optimizer.step()
        return norm

    def pipeline_schedule(self, boosted: Boosted) -> OneForwardOneBackwardSchedule:
        return boosted.booster.plugin.scheduler

    def forward_pipeline(
        self,
        boosted: Boosted,
        batches: Iterable[StageInputs],
        count: Callable[[torch.Tensor, torch.Tensor], None],
    ) -> None:
        """With a schedule of its own.

        The training schedule remembers batch sizes and tensor metadata from step to step; an
        evaluation through it would leave its own behind and break the next training step. The
        second schedule sees one shape only, so its metadata cache stays valid.
        """
        schedule = OneForwardOneBackwardSchedule(
            boosted.booster.plugin.scheduler.stage_manager,
            microbatch_size=boosted.plan.batches.microbatch,
        )
        schedule.last_batch_size = boosted.plan.batches.forward_batch

        def criterion(outputs: object, inputs: StageInputs) -> torch.Tensor:
            logits: torch.Tensor = outputs.logits  # type: ignore[attr-defined]
            count(logits, inputs["labels"])
            return logits.new_zeros(())

        for batch in batches:
            schedule.forward_backward_step(boosted.model, iter([batch]), criterion)

    def trained_part(
        self, boosted: Boosted, name: str, parameter: torch.nn.Parameter, tp_dim: int | None
    ) -> Part:
        optimizer = boosted.optimizer
        if isinstance(optimizer, LowLevelZeroOptimizer):
            return shard_of(optimizer, name, parameter, tp_dim)
        master = parameter
        if isinstance(optimizer, MixedPrecisionOptimizer):
            master = optimizer.working_to_master_map[parameter]
        return Part(name, master, master, parameter, tp_dim)

    def settle(self, boosted: Boosted) -> None:
        if isinstance(boosted.optimizer, LowLevelZeroOptimizer):
            tell_places(boosted.optimizer)

    def refresh(self, boosted: Boosted) -> None:
        optimizer = boosted.optimizer
        if isinstance(optimizer, LowLevelZeroOptimizer):
            gather_shards(optimizer)
        elif isinstance(optimizer, MixedPrecisionOptimizer):
            for working, master in optimizer.working_to_master_map.items():
                working.data.copy_(master)

    def generators(self, boosted: Boosted) -> dict[str, torch.Tensor]:
        """Of each dropout that tensor-parallel ranks apply to what all of them hold."""
        return {name: each.device_rng_state for name, each in _randomizers(boosted).items()}

    def restore_generators(self, boosted: Boosted, states: Mapping[str, torch.Tensor]) -> None:
        for name, randomizer in _randomizers(boosted).items():
            randomizer.device_rng_state = states[name]

    def _scaler(self, boosted: Boosted) -> object:
        zero = isinstance(boosted.optimizer, LowLevelZeroOptimizer)
        owner = "mixed_precision_mixin" if zero else "mixed_precision"
        return getattr(getattr(boosted.optimizer, owner, None), "grad_scaler", None)


def _clips_exactly(config: TrainConfig) -> bool:
    """Whether the gradients are clipped here, as PyTorch does, and not by ColossalAI's optimizer.

    That one adds up the squares in double precision and in an order of its own. In fp32 each stage
    has whole gradients, unless they are divided by tensor parallelism.
    """
    return config.clip_grad_norm > 0 and config.precision == "fp32" and config.tp == 1


def _randomizers(boosted: Boosted) -> dict[str, Randomizer]:
    """ColossalAI's generators of the dropouts that drop anything, by module."""
    return {
        f"dropout.{name}": module.randomizer
        for name, module in boosted.model.unwrap().named_modules()
        if isinstance(module, DropoutForReplicatedInput) and module.p > 0
    }
