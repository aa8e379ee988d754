"""Pixels to model inputs, and augmentation that no rank, worker or world size can change."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from vit_colossal.model.preprocessing import Preprocessing
from vit_colossal.plan.recipe import MIN_CROP_SCALE

# Bounds of the crop's aspect ratio (width / height), as torchvision's default.
_RATIO = (3 / 4, 4 / 3)


def stable_seed(*parts: int | str) -> int:
    """Mix numbers and words into a seed; the same on every machine, unlike ``hash``.

    Args:
        parts: What the random numbers shall depend on, and nothing else.

    Returns:
        A number from 0 to 2**63 - 1.
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from the CPU's global generator as if newly seeded, and leave it as it was.

    For torchvision's transforms, which take no generator. ``torch.manual_seed`` would seed the
    CUDA generators too, and nothing would restore those.
    """
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def normalize(images: Tensor, how: Preprocessing, dtype: torch.dtype = torch.float32) -> Tensor:
    """(x / divisor - mean) / std, in fp32 on the images' own device, then cast.

    Args:
        images: uint8 [B, C, H, W].
        how: Divisor, mean and standard deviation.
        dtype: Type of the result.

    Returns:
        [B, C, H, W] on the same device.
    """
    centre, spread = (_per_channel(values, images.device) for values in (how.mean, how.std))
    return (images.to(torch.float32) / how.divisor).sub_(centre).div_(spread).to(dtype)


@cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """fp32 [C, 1, 1], kept: made anew at every step, it would be a copy that waits for a GPU."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


@dataclass(frozen=True)
class Augmentation:
    """Which random changes training images get.

    Attributes:
        random_resized_crop: Cut out a random part and resize it to the full size.
        min_scale: Smallest area of the part, as a share (0 to 1] of the image.
        horizontal_flip: Mirror half of the images.
        auto: Which of torchvision's policies changes geometry and colour.
        num_ops: Changes of an image by RandAugment.
        magnitude: Their strength, 0 to 30.
        erasing: Probability that a random rectangle is painted over.
        fill: What is painted, and what comes in from outside the image: [C], from 0 to 255.
    """

    random_resized_crop: bool = False
    min_scale: float = MIN_CROP_SCALE
    horizontal_flip: bool = False
    auto: Literal["randaugment", "trivialaugment"] | None = None
    num_ops: int = 2
    magnitude: int = 9
    erasing: float = 0.0
    fill: tuple[int, ...] = (0, 0, 0)

    @property
    def active(self) -> bool:
        """Whether anything changes at all."""
        moved = self.random_resized_crop or self.horizontal_flip
        return moved or self.auto is not None or self.erasing > 0

    def __str__(self) -> str:
        """What is active, for the log; empty if nothing is."""
        parts = {
            f"random resized crop (area from {self.min_scale:g})": self.random_resized_crop,
            "horizontal flip": self.horizontal_flip,
            f"RandAugment ({self.num_ops} of magnitude {self.magnitude})": self.auto
            == "randaugment",
            "TrivialAugment": self.auto == "trivialaugment",
            f"random erasing {self.erasing:g}": self.erasing > 0,
        }
        return ", ".join(text for text, active in parts.items() if active)


def augment(image: Tensor, seed: int, epoch: int, index: int, options: Augmentation) -> Tensor:
    """Augment one image with random numbers that depend on (seed, epoch, index) only.

    In this order: crop, flip, policy, erasing. The crop follows
    ``torchvision.transforms.v2.RandomResizedCrop`` (the scheme is that of Szegedy et al., "Going
    deeper with convolutions", arXiv:1409.4842); policy and erasing are torchvision's own
    transforms, each with random numbers of its own.

    Args:
        image: uint8 [C, H, W].
        seed: The run's seed.
        epoch: Epoch, from 0.
        index: The sample's place in its split.
        options: What to do.

    Returns:
        uint8 [C, H, W].
    """
    if options.random_resized_crop or options.horizontal_flip:
        image = _crop_and_flip(image, seed, epoch, index, options)
    if options.auto is not None:
        with seeded(stable_seed(options.auto, seed, epoch, index)):
            image = _policy(options)(image)
    if options.erasing > 0:
        with seeded(stable_seed("erase", seed, epoch, index)):
            image = _erasing(options)(image)
    return image


@cache
def _policy(options: Augmentation) -> v2.Transform:
    fill, bilinear = list(options.fill), F.InterpolationMode.BILINEAR
    if options.auto == "trivialaugment":
        return v2.TrivialAugmentWide(interpolation=bilinear, fill=fill)
    return v2.RandAugment(options.num_ops, options.magnitude, interpolation=bilinear, fill=fill)


@cache
def _erasing(options: Augmentation) -> v2.Transform:
    return v2.RandomErasing(options.erasing, value=options.fill)


def _crop_and_flip(
    image: Tensor, seed: int, epoch: int, index: int, options: Augmentation
) -> Tensor:
    generator = torch.Generator().manual_seed(stable_seed("augment", seed, epoch, index))
    # Drawn first and always: the number of draws for a crop varies, and would decide the flip.
    flip = bool(torch.rand((), generator=generator) < 0.5)
    if options.random_resized_crop:
        height, width = image.shape[-2:]
        top, left, crop_height, crop_width = _crop_box(height, width, options.min_scale, generator)
        image = F.resized_crop(
            image,
            top,
            left,
            crop_height,
            crop_width,
            [height, width],
            interpolation=F.InterpolationMode.BILINEAR,
            antialias=True,
        )
    return F.horizontal_flip(image) if flip and options.horizontal_flip else image


def _crop_box(
    height: int, width: int, min_scale: float, generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop: area share and log aspect ratio are uniform."""
    for _ in range(10):
        area = height * width * _uniform(min_scale, 1.0, generator)
        ratio = math.exp(_uniform(math.log(_RATIO[0]), math.log(_RATIO[1]), generator))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(torch.randint(height - crop_height + 1, (), generator=generator))
            left = int(torch.randint(width - crop_width + 1, (), generator=generator))
            return top, left, crop_height, crop_width
    # No luck in ten tries: the largest centred crop whose ratio is allowed.
    crop_width = min(width, round(height * _RATIO[1]))
    crop_height = min(height, round(width / _RATIO[0]))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
