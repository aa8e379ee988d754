"""Bytes of weights, gradients and optimizer that one rank keeps, to the byte.

The counts are those of mixed-precision training in Rajbhandari et al. 2020 ("ZeRO",
arXiv:1910.02054, section 3.1) with what ColossalAI 0.5.0 does about them: ZeRO pads each parameter
to a multiple of the replicas (``zero/low_level/low_level_optim.py``), Gemini keeps chunks
(``forecast.chunks``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vit_colossal.config.optimizers import moments_of
from vit_colossal.config.plugins import facts_of
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.forecast.chunks import chunks_of
from vit_colossal.forecast.outline import Held
from vit_colossal.plan.plan import RunPlan

_SINGLE, _HALF = 4, 2


@dataclass(frozen=True)
class StateBytes:
    """Bytes of one rank's training state.

    Attributes:
        weights: what the model computes with, frozen ones too.
        gradients: at the end of a backward pass.
        masters: fp32 copies of the weights that this rank updates.
        moments: the optimizer's, fp32, with AdamW's count of steps for each tensor.
        average: of the weights, fp32, where one is kept.
        updated: elements that this rank's optimizer goes over, padding included.
        largest_chunk: elements of the largest chunk that has to be gathered; 0 where none has.
    """

    weights: int
    gradients: int
    masters: int
    moments: int
    average: int
    updated: int
    largest_chunk: int = 0

    @property
    def kept(self) -> int:
        """What stays from step to step."""
        return self.weights + self.masters + self.moments + self.average


def zero_stage(config: TrainConfig) -> int | None:
    """What the replicas divide, as in ``PluginFacts.zero_stage``."""
    facts = facts_of(config.plugin)
    return config.zero if facts.has_degrees and facts.zero_stage is not None else facts.zero_stage


def element_size(config: TrainConfig) -> int:
    """Bytes of a weight that the model keeps, of its gradient alike."""
    return _SINGLE if config.precision == "fp32" or facts_of(config.plugin).autocasts else _HALF


def rounding(config: TrainConfig) -> str:
    """Which arithmetic a run computes in; runs of one kind can be compared."""
    if config.precision == "fp32":
        return "fp32"
    return "autocast" if facts_of(config.plugin).autocasts else "16-bit weights"


def state_bytes(plan: RunPlan, held: Sequence[Held], replica: int = 0) -> StateBytes:
    """Count what a rank keeps.

    Args:
        plan: the run; its plugin's facts say what is divided.
        held: this rank's parameters before replicas divide anything.
        replica: its number among those; the first has the fullest share.

    Raises:
        ValueError: the plugin's facts do not say what is divided.
    """
    stage = zero_stage(plan.config)
    if stage is None:
        raise ValueError(f"no zero_stage in the facts of plugin {plan.config.plugin}")
    if stage == 3:
        return _in_chunks(plan, held, replica)
    size, trained = element_size(plan.config), [each.numel for each in held if each.trained]
    frozen = sum(each.numel for each in held if not each.trained)
    if stage == 0:
        updated = sum(trained)
        masters = _SINGLE * updated if size < _SINGLE else 0
        moments = _moments(plan.config, updated, len(trained))
        average = _average(plan.config, updated)
        weights = size * (updated + frozen)
        return StateBytes(weights, size * updated, masters, moments, average, updated)
    dp = plan.dims.dp
    padded = sum(numel + -numel % dp for numel in trained)
    shares = [(numel + -numel % dp) // dp for numel in trained]
    own = sum(
        max(0, min(share, n - replica * share)) for n, share in zip(trained, shares, strict=True)
    )
    updated = sum(shares)
    return StateBytes(
        weights=size * (padded + frozen),
        gradients=size * (padded if stage == 1 else updated),
        masters=_SINGLE * updated,
        moments=_moments(plan.config, updated, len(trained)),
        average=_average(plan.config, own),
        updated=updated,
    )


def _in_chunks(plan: RunPlan, held: Sequence[Held], replica: int) -> StateBytes:
    chunks = chunks_of(held, plan.config, plan.dims.dp)
    shares = [chunk.on_rank(replica, plan.dims.dp) for chunk in chunks]
    kept, used = sum(share for share, _ in shares), sum(used for _, used in shares)
    frozen = sum(each.numel for each in held if not each.trained)
    return StateBytes(
        weights=_HALF * (kept + frozen),
        # Gradients take the place of the weights, unless they are accumulated.
        gradients=_HALF * kept if plan.batches.accumulation > 1 else 0,
        masters=_SINGLE * kept,
        # Its optimizer counts steps in Python.
        moments=_SINGLE * len(moments_of(plan.config)) * used,
        average=_average(plan.config, used),
        updated=used,
        largest_chunk=max((chunk.size for chunk in chunks if not chunk.whole), default=0),
    )


def _moments(config: TrainConfig, updated: int, tensors: int) -> int:
    steps = _SINGLE * tensors if config.optimizer == "adamw" else 0
    return _SINGLE * len(moments_of(config)) * updated + steps


def _average(config: TrainConfig, elements: int) -> int:
    return _SINGLE * elements if config.ema is not None else 0
