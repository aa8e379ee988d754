"""How training images and their labels are changed at random."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, FiniteFloat

from vit_colossal.config.settings.base import Settings

AutoAugment = Literal["randaugment", "trivialaugment"]


class AugmentationSettings(Settings):
    """Off unless asked for, but for crops; drawn from the seed, the epoch and the sample alone."""

    title: ClassVar[str] = "augmentation"

    random_resized_crop: bool | None = None
    """Augment: random crops resized to the model's size; default: as it fits the images."""
    min_crop_scale: FiniteFloat | None = Field(None, gt=0, le=1)
    """Smallest area share of a random crop; default 0.08, and 0.5 where crops are the default."""
    horizontal_flip: bool = False
    """Augment: mirror half of the images."""
    auto_augment: AutoAugment | None = None
    """Augment: randomly chosen changes of geometry and colour, by torchvision's RandAugment or
    TrivialAugmentWide."""
    randaugment_num_ops: int | None = Field(None, ge=1)
    """Changes of each image by RandAugment; default 2."""
    randaugment_magnitude: int | None = Field(None, ge=0, le=30)
    """Their strength, from 0 to 30; default 9."""
    random_erasing: FiniteFloat | None = Field(None, ge=0, le=1)
    """Augment: the share of images of which a random rectangle is painted over."""
    mixup: FiniteFloat | None = Field(None, ge=0)
    """Blend each image and label with another of the global batch: mixup's alpha; 0 is off."""
    cutmix: FiniteFloat | None = Field(None, ge=0)
    """Paste a rectangle of another image of the global batch: CutMix's alpha; 0 is off. With
    --mixup, each step does one of the two."""
    drop_path: FiniteFloat | None = Field(None, ge=0, lt=1)
    """Share of the samples for which a residual path is left out (stochastic depth), in families
    that have it; default the model's own, which is 0.1 for BEiT and Swin."""
    label_smoothing: FiniteFloat | None = Field(None, ge=0, lt=1)
    """Share of each label's weight that is spread over all labels; training only."""
