"""From a plain model to a boosted one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from colossalai.booster import Booster
from colossalai.shardformer.layer.utils import Randomizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from vit_colossal.data.features import FeatureForm
from vit_colossal.data.transforms import normalize
from vit_colossal.families.names import named_weights
from vit_colossal.model.build import blocks, checkpoint_activations
from vit_colossal.model.optim import build_schedule, parameter_groups
from vit_colossal.model.preprocessing import Preprocessing
from vit_colossal.plan.parallel_dims import Coordinate, ParallelDims
from vit_colossal.plan.plan import RunPlan
from vit_colossal.strategies.choice import strategy_of
from vit_colossal.strategies.drop_path import Drops, take_over
from vit_colossal.strategies.parts import Part
from vit_colossal.strategies.strategy import Boosted, Strategy


class Average(Protocol):
    """An average of the weights, as :class:`~vit_colossal.strategies.ema.Ema` keeps it."""

    values: dict[str, torch.Tensor]

    def update(self, step: int) -> None: ...

    def in_place(self) -> AbstractContextManager[Any]: ...


@dataclass
class Engine(Boosted):
    """A boosted model with all that a step, an evaluation or a checkpoint needs of it.

    Attributes:
        strategy: what is special about the plan's plugin.
        rank: this process.
        schedule: of the learning rate, as ColossalAI wrapped it.
        preprocessing: how pixels become inputs.
        drops: which residual paths are dropped, where some are.
        ema: the average of the weights, where one is kept.
        class_weights: fp32 [labels] on the device, what a label counts in the training loss.
        features: what a batch without pixels has in each row, once the model reads such features.
    """

    strategy: Strategy
    rank: int
    schedule: LRScheduler
    preprocessing: Preprocessing
    drops: Drops
    ema: Average | None = None
    class_weights: torch.Tensor | None = None
    features: FeatureForm | None = None

    @property
    def dims(self) -> ParallelDims:
        return self.plan.dims

    @property
    def coordinate(self) -> Coordinate:
        return self.dims.coordinate(self.rank)

    @property
    def is_lead(self) -> bool:
        """Whether this rank reports and writes."""
        return self.rank == self.dims.lead_rank

    @property
    def first_stage(self) -> bool:
        return self.coordinate.pp == 0

    @property
    def last_stage(self) -> bool:
        return self.coordinate.pp == self.dims.pp - 1

    @property
    def pipelined(self) -> bool:
        return self.dims.pp > 1

    @property
    def dp_group(self) -> dist.ProcessGroup | None:
        """The ranks that hold the same weights for other samples; None is the whole world."""
        return self.strategy.replicas(self)

    def begin_step(self, places: Sequence[torch.Tensor]) -> None:
        """Draw what a step drops.

        Args:
            places: of each batch of this replica, where its samples stand in the global batch.
        """
        size = self.plan.batches.microbatch
        parts = [part for batch in places for part in batch.split(size)]
        self.drops.begin(self.schedule.last_epoch, parts)

    @property
    def parts(self) -> list[Part]:
        """All pieces of the training state that this rank holds."""
        return list(self.strategy.parts(self))

    @property
    def torch_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer inside ColossalAI's wrappers."""
        optimizer = self.optimizer
        while not isinstance(optimizer, torch.optim.Optimizer):
            optimizer = optimizer.optim
        return optimizer

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        """What the model reads of a batch's images, on the device; the plugin casts further.

        Args:
            images: uint8 [B, C, H, W], which become normalized fp32; or the bytes of features,
                uint8 [B, row_bytes].
        """
        images = images.to(self.device, non_blocking=True)
        if self.features is not None and images.ndim == 2:
            return self.features.features_of(images)
        return normalize(images, self.preprocessing)

    def blank(self, count: int) -> torch.Tensor:
        """Images for a forward pass whose result nobody reads, as :meth:`pixels` takes them."""
        form = self.features
        shape = self.preprocessing.shape if form is None else (form.row_bytes,)
        return torch.zeros(count, *shape, dtype=torch.uint8)

    def evaluated_weights(self) -> AbstractContextManager[Any]:
        """Compute with the weights that are evaluated and saved; every rank has to call this."""
        return nullcontext() if self.ema is None else self.ema.in_place()


def build_engine(
    plan: RunPlan,
    model: PreTrainedModel,
    preprocessing: Preprocessing,
    total_steps: int,
    device: torch.device,
) -> Engine:
    """Wrap a plain model for the plan's plugin. The process group must exist.

    Args:
        plan: the validated run.
        model: the same plain fp32 model on every rank.
        preprocessing: how pixels become inputs.
        total_steps: length of the learning-rate schedule in optimizer steps.
        device: where this rank computes.
    """
    drops = take_over(model, plan.spec, plan.config.seed, plan.batches.global_batch, device)
    if plan.config.grad_checkpoint:
        checkpoint_activations(model, drops.again if drops.active else None)
    if plan.config.compile:
        # Meant for whole models that are compiled at once: it would cut every layer in two, as
        # soon as its gradients make up DDP's first bucket of 1 MB.
        torch._dynamo.config.optimize_ddp = False
        # In place: parameters keep their names, and layers of one shape share one compilation.
        for layer in blocks(model, plan.spec):
            layer.compile()
    shapes = {name: parameter.shape for name, parameter in named_weights(model)}
    strategy = strategy_of(plan.config.plugin)
    optimizer = strategy.optimizer(
        parameter_groups(model, plan.spec, plan.config), plan.config, device.type
    )
    schedule = build_schedule(optimizer, plan.config, total_steps)
    # Dropout under tensor parallelism numbers its generators; an earlier model in this process may
    # have left the ranks of a pipeline with different counts.
    Randomizer.reset_index()
    plugin, mixed_precision = strategy.plugin(plan)
    booster = Booster(plugin=plugin, mixed_precision=mixed_precision)
    boosted, optimizer, _, _, schedule = booster.boost(model, optimizer, lr_scheduler=schedule)
    engine = Engine(
        plan=plan,
        device=device,
        booster=booster,
        model=boosted,
        optimizer=optimizer,
        shapes=shapes,
        strategy=strategy,
        rank=dist.get_rank(),
        schedule=schedule,
        preprocessing=preprocessing,
        drops=drops,
    )
    strategy.settle(engine)
    # For a forward pass before the first step.
    engine.begin_step([torch.arange(plan.batches.forward_batch)])
    return engine
