"""Pixels to model inputs, and augmentation that no rank, worker or world size can change."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

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


def normalize(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype
) -> Tensor:
    """(x / 255 - mean) / std, in fp32 on the images' own device, then cast.

    Args:
        images: uint8 [B, 3, H, W].
        mean: Mean of each channel, on the scale 0 to 1.
        std: Standard deviation of each channel, on the scale 0 to 1.
        dtype: Type of the result.

    Returns:
        [B, 3, H, W] on the same device.
    """
    centre = torch.tensor(mean, dtype=torch.float32, device=images.device).view(-1, 1, 1)
    spread = torch.tensor(std, dtype=torch.float32, device=images.device).view(-1, 1, 1)
    return (images.to(torch.float32) / 255).sub_(centre).div_(spread).to(dtype)


@dataclass(frozen=True)
class Augmentation:
    """Which random changes training images get.

    Attributes:
        random_resized_crop: Cut out a random part and resize it to the full size.
        min_scale: Smallest area of the part, as a share (0 to 1] of the image.
        horizontal_flip: Mirror half of the images.
    """

    random_resized_crop: bool = False
    min_scale: float = 0.08
    horizontal_flip: bool = False

    @property
    def active(self) -> bool:
        """Whether anything changes at all."""
        return self.random_resized_crop or self.horizontal_flip


def augment(image: Tensor, seed: int, epoch: int, index: int, options: Augmentation) -> Tensor:
    """Augment one image with random numbers that depend on (seed, epoch, index) only.

    The crop follows ``torchvision.transforms.v2.RandomResizedCrop`` (torchvision 0.20; the
    scheme is that of Szegedy et al., "Going deeper with convolutions", arXiv:1409.4842).

    Args:
        image: uint8 [3, H, W].
        seed: The run's seed.
        epoch: Epoch, from 0.
        index: The sample's place in its split.
        options: What to do.

    Returns:
        uint8 [3, H, W].
    """
    if not options.active:
        return image
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
