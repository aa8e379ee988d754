"""Mixup and CutMix over the global batch, without communication between its processes.

As in torchvision's ``v2.MixUp`` and ``v2.CutMix``, each sample is mixed with the one before it in
the global batch, and all by the same amount. The order is random, so the partner is too; and a
process with contiguous rows has to read only one sample more, the one before its first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Beta

from vit_colossal.data.transforms import seeded, stable_seed


class Box(NamedTuple):
    """A rectangle of pixels: rows ``top`` to ``bottom``, columns ``left`` to ``right``."""

    top: int
    left: int
    bottom: int
    right: int


class Draw(NamedTuple):
    """How one step mixes.

    Attributes:
        weight: share of each sample's own pixels and label, from 0 to 1.
        box: where CutMix puts the other sample's pixels; None for mixup.
    """

    weight: float
    box: Box | None


class Mix(NamedTuple):
    """What a batch needs to be mixed.

    Attributes:
        image: uint8 [1, C, H, W], the sample before the batch's first.
        labels: int64 [b], each sample's partner's label.
        draw: how.
    """

    image: Tensor
    labels: Tensor
    draw: Draw


@dataclass(frozen=True)
class Mixing:
    """Parameters of the Beta distributions that the shares are drawn from; 0 is off.

    Attributes:
        mixup: alpha of mixup (Zhang et al. 2018, arXiv:1710.09412).
        cutmix: alpha of CutMix (Yun et al. 2019, arXiv:1905.04899).
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def active(self) -> bool:
        """Whether anything is mixed at all."""
        return self.mixup > 0 or self.cutmix > 0

    def __str__(self) -> str:
        """What is active, for the log; empty if nothing is."""
        alphas = {"mixup": self.mixup, "cutmix": self.cutmix}
        return " or ".join(f"{name} {alpha:g}" for name, alpha in alphas.items() if alpha > 0)

    def draw(self, seed: int, epoch: int, step: int, size: tuple[int, int]) -> Draw:
        """How a step mixes, from random numbers that depend on (seed, epoch, step) only.

        Args:
            seed: The run's seed.
            epoch: Epoch, from 0.
            step: Step in the epoch, from 0.
            size: Height and width of the images.
        """
        with seeded(stable_seed("mix", seed, epoch, step)):
            cut = self.cutmix > 0 and (self.mixup == 0 or float(torch.rand(())) < 0.5)
            alpha = self.cutmix if cut else self.mixup
            weight = float(Beta(alpha, alpha).sample())
            return _cut(weight, *size) if cut else Draw(weight, None)


def _cut(weight: float, height: int, width: int) -> Draw:
    """A box of area 1 - weight around a random centre, cut off at the border, and what is left."""
    column, row = (int(torch.randint(size, ())) for size in (width, height))
    half = 0.5 * math.sqrt(1.0 - weight)
    across, down = int(half * width), int(half * height)
    top, bottom = max(row - down, 0), min(row + down, height)
    left, right = max(column - across, 0), min(column + across, width)
    area = (bottom - top) * (right - left) / (height * width)
    return Draw(1.0 - area, Box(top, left, bottom, right))


def mix_pixels(images: Tensor, first_partner: Tensor, draw: Draw) -> Tensor:
    """Mix a batch, on the images' own device.

    A product and a sum per pixel, each rounded once: a pixel comes out the same in a batch of any
    size, which ``lerp`` does not promise.

    Args:
        images: fp32 [b, C, H, W], overwritten.
        first_partner: fp32 [1, C, H, W], the sample before the first.
        draw: how.

    Returns:
        fp32 [b, C, H, W].
    """
    partners = torch.cat([first_partner, images[:-1]])
    if draw.box is None:
        return images.mul_(draw.weight).add_(partners.mul_(1.0 - draw.weight))
    top, left, bottom, right = draw.box
    images[..., top:bottom, left:right] = partners[..., top:bottom, left:right]
    return images
