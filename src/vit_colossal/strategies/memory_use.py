"""How much memory the training state of a rank takes: known before the first step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from vit_colossal.config.optimizers import moments_of
from vit_colossal.strategies.engine import Engine


@dataclass(frozen=True)
class StateMemory:
    """Bytes of one rank's state, the largest over the ranks.

    Attributes:
        weights: what the model computes with.
        gradients: of the same type; divided by the replicas under zero2, and under Gemini kept in
            the place of the weights, unless they are accumulated.
        masters: fp32 copies, where the weights are not updated themselves.
        moments: the optimizer's, fp32, AdamW's two for every weight that this rank updates.
        average: of those weights, fp32, where one is kept.
    """

    weights: int
    gradients: int
    masters: int
    moments: int
    average: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.masters + self.moments + self.average

    def __str__(self) -> str:
        names = ["weights", "gradients", "masters", "moments"]
        names += ["average"] if self.average else []
        sizes = ", ".join(f"{name} {_mib(getattr(self, name))}" for name in names)
        return f"{_mib(self.total)} MiB ({sizes})"


def state_memory(engine: Engine) -> StateMemory:
    """What weights, gradients and optimizer take once training runs; all ranks call this alike.

    Counted on what the booster gave this rank, by the bytes of ZeRO's model of mixed precision
    (Rajbhandari et al. 2020, section 3.1): 2 for a weight and its gradient in 16 bits, 4 each for
    master and each moment; 4 for weight and gradient in fp32. Activations, communication buffers
    and the framework come on top.
    """
    parts = engine.parts
    trained = [part for part in parts if not part.frozen]
    frozen = [part.master for part in parts if part.frozen]
    updated = sum(part.master.numel() for part in trained)
    use = engine.strategy.memory(engine, trained)
    weights = use.weights + sum(tensor.numel() * tensor.element_size() for tensor in frozen)
    average = 4 * updated if engine.ema else 0
    moments = 4 * len(moments_of(engine.plan.config)) * updated
    sizes = [weights, use.gradients, use.masters, moments, average]
    found = torch.tensor(sizes, device=engine.device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return StateMemory(*found.tolist())


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f}"
