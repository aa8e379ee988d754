"""How long a step takes, from rates that were measured or are those of a data sheet.

Micro-batches times layers; a pipeline is played through (``forecast.schedule``). Sums and gathers
are those of ``forecast.traffic`` (ZeRO: Rajbhandari et al. 2020, arXiv:1910.02054, section 7), with
what ZeRO copies around them; what runs beside the backward pass slows it down, as Galvatron's model
has it (Miao et al. 2022, arXiv:2211.13878); the stages of a pipeline are priced each on its own, as
Alpa's are (Zheng et al. 2022, arXiv:2201.12023).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vit_colossal.forecast.outline import Outline, held_by_stage, layers_of
from vit_colossal.forecast.rates import (
    Ladder,
    ParameterRates,
    Pieces,
    Rates,
    pieces_key,
    transfer_key,
)
from vit_colossal.forecast.schedule import one_forward_one_backward
from vit_colossal.forecast.state import rounding, state_bytes, zero_stage
from vit_colossal.forecast.traffic import Transfer, along_the_model, among_replicas
from vit_colossal.plan.plan import RunPlan


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step.

    Attributes:
        computing: forward and backward of all micro-batches, by the slowest stage, with the sums
            and the hidden states that they wait for.
        waiting: for other stages of a pipeline, mostly until it is full and while it runs empty.
        exchanging: gradients and weights of the replicas, beyond what the backward pass hides, and
            what is copied for it.
        updating: the optimizer.
    """

    computing: float
    waiting: float
    exchanging: float
    updating: float

    @property
    def total(self) -> float:
        return self.computing + self.waiting + self.exchanging + self.updating


def why_untimed(plan: RunPlan, whole: Outline) -> str | None:
    """What the model of a step's time leaves out of this run; None where it covers it."""
    if whole.first_trained > 0 or whole.head_alone or plan.config.lora_rank is not None:
        return "frozen weights (--freeze none trains all)"
    return "--compile" if plan.config.compile else None


def step_time(plan: RunPlan, whole: Outline, rates: Rates) -> StepTime:
    """The time of one optimizer step, without waiting for images.

    Args:
        plan: a run that :func:`why_untimed` has nothing against.
        whole: its model.
        rates: of its machine, processes, rounding and degrees.

    Raises:
        KeyError: something that it does has no rate.
    """
    stages = range(plan.dims.pp)
    passes = [_pass(plan, whole, rates, stage) for stage in stages]
    replicas = plan.dims.world_size // plan.dims.pp
    times = _passes(plan)
    computing = times * max(forward + backward for forward, backward in passes)
    whole_pass = one_forward_one_backward(passes, times, lambda busy: rates.share(busy * replicas))
    return StepTime(
        computing=min(computing, whole_pass),
        waiting=max(0.0, whole_pass - computing),
        exchanging=max(_exchange(plan, whole, rates, stage) for stage in stages),
        updating=max(_update(plan, whole, rates, stage) for stage in stages),
    )


def _pieces(plan: RunPlan, rates: Rates) -> Pieces:
    """Those beside gathers where they were measured: see ``calibration.work``."""
    config = plan.config
    computed = rounding(config), plan.dims.tp, config.grad_checkpoint
    beside = pieces_key(*computed, zero_stage(config) != 0)
    return rates.pieces.get(beside) or rates.pieces[pieces_key(*computed, False)]


def _parameters(plan: RunPlan, rates: Rates) -> ParameterRates:
    mapped = rates.mapped if plan.config.grad_checkpoint else None
    return mapped or rates.parameters


def _passes(plan: RunPlan) -> int:
    """Micro-batches of a step and a replica."""
    return plan.batches.accumulation * plan.batches.num_microbatches


def _pass(plan: RunPlan, whole: Outline, rates: Rates, stage: int) -> tuple[float, float]:
    """One micro-batch through a stage, forward and backward."""
    pieces, images = _pieces(plan, rates), plan.batches.microbatch
    layers = len(layers_of(plan, stage))
    both = 0.0
    if stage == 0:
        both += pieces.embeddings(images)
    if stage == plan.dims.pp - 1:
        both += pieces.head(images)
    sent = _seconds(along_the_model(plan, whole, stage), rates) / _passes(plan)
    # Of what is known both ways: two products of the backward pass for each of the forward pass,
    # and as much sent in one as in the other.
    forward = layers * pieces.block_forward(images) + both / 3 + sent / 2
    return forward, layers * pieces.block_backward(images) + 2 * both / 3 + sent / 2


def _exchange(plan: RunPlan, whole: Outline, rates: Rates, stage: int) -> float:
    """What replicas exchange; beside the last backward pass, both take longer."""
    transfers = among_replicas(plan, whole, stage)
    hidden = _seconds((each for each in transfers if each.hidden), rates)
    shown = _seconds((each for each in transfers if not each.hidden), rates)
    block = _pieces(plan, rates).block_backward(plan.batches.microbatch)
    beside = len(layers_of(plan, stage)) * block
    sent = shown + max(0.0, hidden - beside) + rates.slowdown * min(hidden, beside)
    return sent + _copies(plan, whole, rates, stage)


def _copies(plan: RunPlan, whole: Outline, rates: Rates, stage: int) -> float:
    """What is put together and copied around the exchanges, by ZeRO on one process too."""
    held, zero = held_by_stage(plan, whole, stage), zero_stage(plan.config)
    tensors, numel, rate = len(held), sum(each.numel for each in held), _parameters(plan, rates)
    reduced = rate.reduced.tensor * tensors + rate.reduced.element * numel
    gathered = rate.gathered.tensor * tensors + rate.gathered.element * numel
    if zero == 0:  # DDP sums up where gradients lie; a pipeline's replicas do as ZeRO does
        return 0.0 if plan.dims.dp == 1 or plan.dims.pp == 1 else reduced
    return (1 if zero == 1 else plan.batches.accumulation) * reduced + gathered


def _update(plan: RunPlan, whole: Outline, rates: Rates, stage: int) -> float:
    rate = _parameters(plan, rates).updates[plan.config.plugin]
    held = held_by_stage(plan, whole, stage)
    tensors = sum(each.trained for each in held)
    return rate.tensor * tensors + rate.element * state_bytes(plan, held).updated


def _seconds(transfers: Iterable[Transfer], rates: Rates) -> float:
    return sum(each.times * _ladder(each, rates)(each.size) for each in transfers)


def _ladder(transfer: Transfer, rates: Rates) -> Ladder:
    near = transfer.on_a_host(rates.devices_per_host)
    return rates.transfers[transfer_key(transfer.kind, transfer.ranks, transfer.element, near)]
