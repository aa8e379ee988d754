"""What a strategy has to know to do, and how it is done where nothing is special."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from colossalai.booster import Booster
from colossalai.booster.mixed_precision import MixedPrecision
from colossalai.booster.plugin.plugin_base import Plugin
from colossalai.checkpoint_io.utils import gather_distributed_param
from colossalai.interface import ModelWrapper, OptimizerWrapper
from torch.nn.parallel import DistributedDataParallel

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.families.names import named_weights
from vit_colossal.model.optim import build_optimizer
from vit_colossal.plan.plan import RunPlan
from vit_colossal.strategies.parts import Part, cut_dimension

#: What a stage gets of a batch, by the names that the model's forward has for it.
StageInputs = dict[str, torch.Tensor]

#: Counters of ColossalAI's dynamic loss scaler that its own state leaves out.
_SCALER_FIELDS = ("_growth_step", "_hysteresis_step")


@dataclass
class Boosted:
    """What the booster made of a model.

    Attributes:
        plan: the validated run.
        device: where this rank computes.
        booster, model, optimizer: as ColossalAI wrapped them.
        shapes: full shape of every parameter by its published name, whatever part this rank holds.
    """

    plan: RunPlan
    device: torch.device
    booster: Booster
    model: ModelWrapper
    optimizer: OptimizerWrapper
    shapes: dict[str, torch.Size]


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of one rank's trained weights, of their gradients and of the fp32 masters."""

    weights: int
    gradients: int
    masters: int


class Strategy(ABC):
    """One way to spread a model, its optimizer and its data over the ranks.

    A strategy overrides what is special about it. As it stands here, ranks hold whole parameters or
    tensor-parallel slices of them, update these themselves, and the optimizer clips in ``step``.

    Attributes:
        scaler_owner: the attribute of the optimizer whose ``grad_scaler`` scales the loss in fp16.
    """

    scaler_owner: str | None = None

    @abstractmethod
    def plugin(self, plan: RunPlan) -> tuple[Plugin, MixedPrecision | None]:
        """ColossalAI's plugin, and the mixed precision that the booster adds to it."""

    def optimizer(
        self, groups: list[dict[str, Any]], config: TrainConfig, device: str
    ) -> torch.optim.Optimizer:
        """The optimizer of parameter groups, before it is wrapped."""
        return build_optimizer(groups, config, device)

    def optimizer_kernel(self, device: str) -> str:
        """Which implementation of the optimizer runs, in words."""
        return "AdamW (torch, fused)" if device == "cuda" else "AdamW (torch)"

    def settle(self, boosted: Boosted) -> None:  # noqa: B027 - nothing is left to do here
        """Finish what boosting has made, before the first step."""

    def update(self, boosted: Boosted) -> torch.Tensor | float | None:
        """Clip and update; the gradient norm before clipping, None where nothing is clipped."""
        boosted.optimizer.step()
        # Clipped inside step(), where the norm over all shards is known.
        clips = boosted.plan.config.clip_grad_norm > 0
        return boosted.optimizer.get_grad_norm() if clips else None

    def no_sync(self, boosted: Boosted) -> AbstractContextManager[Any]:
        """Leave out the gradient reduction of all but the last accumulated backward."""
        return boosted.booster.no_sync(boosted.model, boosted.optimizer)

    def replicas(self, boosted: Boosted) -> dist.ProcessGroup | None:
        """The ranks that hold the same weights for other samples; None is the whole world."""
        return None

    def reorders_sums(self, boosted: Boosted) -> bool:
        """Whether the first step changes the order in which gradients are summed: DDP's does."""
        return any(
            isinstance(module, DistributedDataParallel) for module in boosted.model.modules()
        )

    def stages(self, boosted: Boosted) -> dist.ProcessGroup:
        """The ranks of one pipeline; only a plugin whose facts claim degrees is asked for them."""
        raise NotImplementedError("this strategy has no pipelines")

    def pipeline_schedule(self, boosted: Boosted) -> Any:
        """The object whose ``forward_step`` and ``backward_step`` compute a micro-batch."""
        raise NotImplementedError("this strategy has no pipelines")

    def forward_pipeline(
        self,
        boosted: Boosted,
        batches: Iterable[StageInputs],
        count: Callable[[torch.Tensor, torch.Tensor], None],
    ) -> None:
        """Forward passes through all stages; ``count`` gets logits [b, labels] and labels [b]."""
        raise NotImplementedError("this strategy has no pipelines")

    def parts(self, boosted: Boosted) -> Iterator[Part]:
        """All pieces this rank holds."""
        for name, parameter in named_weights(boosted.model.unwrap()):
            tp_dim = cut_dimension(parameter.shape, boosted.shapes[name])
            if parameter.requires_grad:
                yield self.trained_part(boosted, name, parameter, tp_dim)
            else:
                yield Part(name, parameter.detach(), parameter, parameter, tp_dim, frozen=True)

    def trained_part(
        self, boosted: Boosted, name: str, parameter: torch.nn.Parameter, tp_dim: int | None
    ) -> Part:
        """This rank's piece of a parameter that is trained."""
        return Part(name, parameter, parameter, parameter, tp_dim)

    def refresh(self, boosted: Boosted) -> None:  # noqa: B027 - here they are the masters
        """Make what the model computes with follow the masters, as the optimizer does after a step.

        Every rank has to call this.
        """

    def weights(self, boosted: Boosted) -> dict[str, torch.Tensor]:
        """The weights of this rank's stage by published name: whole, on the CPU.

        Every rank has to call this.
        """
        return {
            name: gather_distributed_param(parameter).detach().to("cpu", copy=True)
            for name, parameter in named_weights(boosted.model.unwrap())
        }

    def memory(self, boosted: Boosted, parts: list[Part]) -> MemoryUse:
        """What the trained parts take once training runs."""
        working = [part.working for part in parts if part.working is not None]
        weights = sum(tensor.numel() * tensor.element_size() for tensor in working)
        masters = sum(4 * part.master.numel() for part in parts if part.has_own_master)
        return MemoryUse(weights, weights, masters)

    def generators(self, boosted: Boosted) -> dict[str, torch.Tensor]:
        """States of the random generators that a strategy keeps beside PyTorch's own, by name.

        uint8, as ``torch.get_rng_state`` gives them.
        """
        return {}

    def restore_generators(  # noqa: B027 - there are none here
        self, boosted: Boosted, states: Mapping[str, torch.Tensor]
    ) -> None:
        """Continue with states that :meth:`generators` gave in the same layout."""

    def loss_scale(self, boosted: Boosted) -> dict[str, float] | None:
        """The loss scale and its counters under fp16, as JSON."""
        scaler = self._scaler(boosted)
        if scaler is None:
            return None
        return {"scale": scaler.scale.item(), **{f: getattr(scaler, f) for f in _SCALER_FIELDS}}

    def restore_loss_scale(self, boosted: Boosted, values: Mapping[str, float]) -> None:
        """Continue with a scale that :meth:`loss_scale` of this or another strategy gave."""
        scaler = self._scaler(boosted)
        if scaler is not None:
            scaler._scale.fill_(values["scale"])
            for name in _SCALER_FIELDS:
                setattr(scaler, name, values.get(name, 0))

    def _scaler(self, boosted: Boosted) -> Any:
        owner = getattr(boosted.optimizer, self.scaler_owner or "", None)
        return getattr(owner, "grad_scaler", None)
