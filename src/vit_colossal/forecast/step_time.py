"""How long a step takes, from rates that were measured or are those of a data sheet.

Micro-batches times layers, with what is computed again. A pipeline of m micro-batches by 1F1B takes
m times its slowest stage and the others once, to fill and drain it (Narayanan et al. 2021,
arXiv:2104.04473, section 2.2). Sums and gathers are those of ``forecast.traffic`` (ZeRO:
Rajbhandari et al. 2020, arXiv:1910.02054, section 7); what runs beside the backward pass slows it
down, as Galvatron's model has it (Miao et al. 2022, arXiv:2211.13878); the stages of a pipeline are
priced each on its own, as Alpa's are (Zheng et al. 2022, arXiv:2201.12023).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vit_colossal.forecast.outline import Outline, held_by_stage, layers_of
from vit_colossal.forecast.rates import Ladder, Pieces, Rates, pieces_key, transfer_key
from vit_colossal.forecast.state import rounding, state_bytes
from vit_colossal.forecast.traffic import Transfer, along_the_model, among_replicas
from vit_colossal.plan.plan import RunPlan


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step.

    Attributes:
        computing: forward and backward of all micro-batches, by the slowest stage, with the sums
            and the hidden states that they wait for.
        waiting: until a pipeline is full, and while it runs empty.
        exchanging: gradients and weights of the replicas, beyond what the backward pass hides.
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
    slowest, times = max(passes), plan.batches.accumulation * plan.batches.num_microbatches
    # While a pipeline fills and drains, half of its stages are at work on average.
    few = rates.share(plan.dims.world_size / 2)
    return StepTime(
        computing=times * slowest,
        waiting=(sum(passes) - slowest) * few,
        exchanging=max(_exchange(plan, whole, rates, stage) for stage in stages),
        updating=max(_update(plan, whole, rates, stage) for stage in stages),
    )


def _pieces(plan: RunPlan, rates: Rates) -> Pieces:
    return rates.pieces[pieces_key(rounding(plan.config), plan.dims.tp)]


def _pass(plan: RunPlan, whole: Outline, rates: Rates, stage: int) -> float:
    """One micro-batch through a stage, forward and backward."""
    pieces, images = _pieces(plan, rates), plan.batches.microbatch
    forwards = 2 if plan.config.grad_checkpoint else 1
    block = forwards * pieces.block_forward(images) + pieces.block_backward(images)
    seconds = len(layers_of(plan, stage)) * block
    if stage == 0:
        seconds += pieces.embeddings(images)
    if stage == plan.dims.pp - 1:
        seconds += pieces.head(images)
    if plan.config.grad_checkpoint:
        seconds *= rates.mapping
    times = plan.batches.accumulation * plan.batches.num_microbatches
    return seconds + _seconds(along_the_model(plan, whole, stage), rates) / times


def _exchange(plan: RunPlan, whole: Outline, rates: Rates, stage: int) -> float:
    """What replicas exchange; beside the last backward pass, both take longer."""
    transfers = among_replicas(plan, whole, stage)
    hidden = _seconds((each for each in transfers if each.hidden), rates)
    shown = _seconds((each for each in transfers if not each.hidden), rates)
    block = _pieces(plan, rates).block_backward(plan.batches.microbatch)
    beside = len(layers_of(plan, stage)) * block
    return shown + max(0.0, hidden - beside) + rates.slowdown * min(hidden, beside)


def _update(plan: RunPlan, whole: Outline, rates: Rates, stage: int) -> float:
    rate, held = rates.updates[plan.config.plugin], held_by_stage(plan, whole, stage)
    tensors = sum(each.trained for each in held)
    return rate.tensor * tensors + rate.element * state_bytes(plan, held).updated


def _seconds(transfers: Iterable[Transfer], rates: Rates) -> float:
    return sum(each.times * _ladder(each, rates)(each.size) for each in transfers)


def _ladder(transfer: Transfer, rates: Rates) -> Ladder:
    near = transfer.on_a_host(rates.devices_per_host)
    return rates.transfers[transfer_key(transfer.kind, transfer.ranks, transfer.element, near)]
