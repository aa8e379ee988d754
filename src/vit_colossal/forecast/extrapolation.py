"""The time of a step on devices that are not here, from their data sheet.

Nothing of it is measured. A part of the model takes its operations by the share of the peak that
training reaches, a call what its bytes take on the slowest link that they cross, an update what it
reads and writes; none of them less than its calls. ``forecast.step_time`` adds them up as it does
with measured rates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import get_args

from vit_colossal.config.optimizers import moments_of
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.forecast.candidates import Candidates, with_times
from vit_colossal.forecast.devices import Room
from vit_colossal.forecast.profiles import CALL_S, DEVICES_PER_HOST, PEAK_SHARE, DeviceProfile
from vit_colossal.forecast.rates import (
    Ladder,
    ParameterRates,
    Pieces,
    Rates,
    UpdateRate,
    pieces_key,
    transfer_key,
)
from vit_colossal.forecast.state import element_size, rounding
from vit_colossal.forecast.subject import Subject
from vit_colossal.forecast.traffic import Kind, Transfer
from vit_colossal.plan.plan import RunPlan

#: Of a block's forward pass: two norms, four products, attention, the MLP's function and what is
#: added, one by one, as PyTorch runs them uncompiled. The backward pass has twice as many.
_CALLS_OF_A_BLOCK = 12
#: So many times the operations of a forward pass are done with the backward one (Kaplan et al.
#: 2020, arXiv:2001.08361, section 2.1).
_BOTH_WAYS = 3
#: Links of other speeds that are tried.
_FACTORS = (0.5, 2.0)
#: Larger than any size, for what grows in a straight line.
_LARGE = 2.0**60


@dataclass(frozen=True)
class Extrapolation:
    """The candidates with times by data sheet.

    Attributes:
        profile: the sheet.
        found: on its links.
        others: on links so many times as fast.
    """

    profile: DeviceProfile
    found: Candidates
    others: dict[float, Candidates]


def extrapolate(
    found: Candidates, about: Subject, profile: DeviceProfile, processes: int, room: Room
) -> Extrapolation:
    """Predict each candidate's time, on links as they are and on others.

    Args:
        found: the candidates, of which there has to be one.
        about: what they are of; its time is one that is predicted, see ``step_time.why_untimed``.
        profile: the devices.
        processes: of the run.
        room: what a rank may take.
    """

    def on(device: DeviceProfile) -> Candidates:
        rates = rates_of(device, about.plan, about.num_labels, found, processes)
        return with_times(found, about.whole, rates, room)

    others = {factor: on(profile.with_links(factor)) for factor in _FACTORS}
    return Extrapolation(profile, on(profile), others)


def rates_of(
    profile: DeviceProfile, base: RunPlan, num_labels: int, found: Candidates, processes: int
) -> Rates:
    """What the candidates need, in the form of measured rates.

    Args:
        profile: the devices.
        base: the run, undivided.
        num_labels: of its head.
        found: the candidates.
        processes: of the run.
    """
    configs = [each.plan.config for each in found.found]
    tps = {config.tp for config in configs}
    degrees = [ranks for ranks in range(2, processes + 1) if processes % ranks == 0]
    size = min(element_size(config) for config in configs)
    return Rates(
        pieces={
            pieces_key(way, tp, again, False): _pieces(profile, base, num_labels, tp, again)
            for way, tp, again in product(
                {rounding(config) for config in configs}, tps, (False, True)
            )
        },
        # Devices do not slow each other down, nor do products and transfers at once.
        share=Ladder((1.0, _LARGE), (1.0, 1.0)),
        slowdown=0.0,
        transfers={
            transfer_key(kind, ranks, element, near): _transfer(profile, kind, ranks, near)
            for ranks, kind, element in product(degrees, get_args(Kind), (2, 4))
            for near in range(1, min(ranks, DEVICES_PER_HOST) + 1)
        },
        # Three passes over gradients and two over weights, which are read and written: upstream's
        # `_run_reduction` and `TensorBucket.all_gather`.
        parameters=ParameterRates(
            reduced=UpdateRate(0.0, 3 * 2 * size / profile.bandwidth),
            gathered=UpdateRate(0.0, 2 * 2 * size / profile.bandwidth),
            updates={
                config.plugin: UpdateRate(0.0, _bytes_of_an_update(config) / profile.bandwidth)
                for config in configs
            },
        ),
        mapped=None,
        seconds=0.0,
        measured="",
        devices_per_host=DEVICES_PER_HOST,
    )


def _pieces(profile: DeviceProfile, base: RunPlan, num_labels: int, tp: int, again: bool) -> Pieces:
    """The operations of each part, by the family's formula; tensor parallelism cuts the blocks.

    Args:
        profile: the device.
        base: the run, undivided.
        num_labels: of its head.
        tp: the degree.
        again: whether the backward pass computes a block's forward pass again.
    """
    spec = base.spec
    count, shape, size = spec.family.flops, spec.shape, spec.image_size
    embeddings = count(replace(shape, num_layers=0), size, 0)
    encoder = count(shape, size, 0)
    block = (encoder - embeddings) / shape.num_layers / tp
    head = count(shape, size, num_labels) - encoder

    def seconds(multiply_adds: float, calls: int) -> Ladder:
        """Of so many for each image, and as long as its calls at least."""
        one = 2 * multiply_adds / (PEAK_SHARE * profile.flops(base.config.precision or "fp32"))
        least = calls * CALL_S
        return Ladder((least / one,), (least,))

    backward = _BOTH_WAYS - 1 + again
    return Pieces(
        embeddings=seconds(_BOTH_WAYS * embeddings, _CALLS_OF_A_BLOCK),
        block_forward=seconds(block, _CALLS_OF_A_BLOCK),
        block_backward=seconds(backward * block, backward * _CALLS_OF_A_BLOCK),
        head=seconds(_BOTH_WAYS * head, _CALLS_OF_A_BLOCK),
    )


def _transfer(profile: DeviceProfile, kind: Kind, ranks: int, near: int) -> Ladder:
    """Of a call whose ranks stand ``near`` by ``near`` on hosts.

    A ring goes through a host once, and several rings share what they carry out of it, one over
    each device's part of the network.
    """
    speed = profile.link
    if near < ranks:
        crossing = profile.network * (1 if kind == "send" else near)
        speed = crossing if near == 1 else min(profile.link, crossing)
    sent = Transfer(kind, ranks, _LARGE, 1, element=1).sent
    return Ladder((0.0, _LARGE), (CALL_S, CALL_S + sent / speed))


def _bytes_of_an_update(config: TrainConfig) -> int:
    """Read and written for each element: the gradient, and weight and moments both ways, all fp32;
    the gradient's norm and clipping; gradients and weights of 16 bits that are cast."""
    single, half = 4, 2
    update = single * (1 + 2 * (1 + len(moments_of(config))))
    clipping = 3 * single if config.clip_grad_norm > 0 else 0
    casts = 2 * (half + single) if element_size(config) == half else 0
    return update + clipping + casts
