"""What becomes of an image before the model sees it: which pixels, and which numbers of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vit_colossal.plan.channels import MODES

#: What an image is resized to before its center is cut out: height and width, its shorter edge, or
#: nothing at all.
Frame = tuple[int, int] | int | Literal["as it is"]


@dataclass(frozen=True)
class Preprocessing:
    """One way from images to inputs, for the cache, training, evaluation, prediction and export.

    ``data.decoding.decode`` makes the pixels, which a cache keeps; ``data.transforms.normalize``
    makes numbers of them, on the device: ``(pixel / divisor - mean) / std``.

    Attributes:
        size: height and width of the pixels.
        resample: a ``PIL.Image.Resampling`` number.
        cut_from: what the center of this size is cut from; None is an image resized to ``size``.
        divisor: what a pixel is divided by, the inverse of a processor's ``rescale_factor``.
        mean, std: for each channel of the images, on the scale that the division gives.
        draft: large JPEGs are decoded at a part of their size.
        notes: where this is not what the model's processor asks for, one line each.
    """

    size: tuple[int, int]
    resample: int = 2
    cut_from: Frame | None = None
    divisor: float = 255.0
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    draft: bool = False
    notes: tuple[str, ...] = ()

    @property
    def mode(self) -> str:
        """Pillow's mode of the pixels."""
        return MODES[len(self.mean)]

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C, H, W] of the pixels."""
        return len(self.mean), *self.size

    @property
    def fill(self) -> tuple[int, ...]:
        """The pixel that becomes nearest to 0: what augmentation paints. [C], from 0 to 255."""
        return tuple(min(max(round(self.divisor * m), 0), 255) for m in self.mean)

    def pixel_identity(self) -> list[object]:
        """All that decides the pixels, as JSON: a cache of others must not be taken for these."""
        plain: list[object] = [list(self.size), self.resample, *(["draft"] if self.draft else [])]
        plain += [] if self.mode == "RGB" else [self.mode]
        return plain if self.cut_from is None else [*plain, self.cut_from]

    def frame_of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image is resized to, before anything is cut off.

        Args:
            height: of the image.
            width: of the image.
        """
        if self.cut_from is None:
            return self.size
        if self.cut_from == "as it is":
            return height, width
        if isinstance(self.cut_from, tuple):
            return self.cut_from
        # As transformers rounds the longer edge: down.
        short, long = self.cut_from, int(self.cut_from * max(height, width) / min(height, width))
        return (long, short) if width <= height else (short, long)

    def __str__(self) -> str:
        """Pixels and numbers, in words."""
        frame, (height, width) = self.cut_from, self.size
        if frame is None:
            pixels = f"resized to {height} x {width} px"
        else:
            before = f"shorter edge resized to {frame}"
            if isinstance(frame, tuple):
                before = f"resized to {frame[0]} x {frame[1]}"
            pixels = f"{before if frame != 'as it is' else frame}, center of {height} x {width} px"
        mean, std = (
            ", ".join(f"{v:g}" for v in (values if len(set(values)) > 1 else values[:1]))
            for values in (self.mean, self.std)
        )
        pixels += "" if self.mode == "RGB" else f" in mode {self.mode}"
        return f"{pixels}, divided by {self.divisor:g}, mean {mean}, deviation {std}"
