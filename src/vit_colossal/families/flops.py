"""Multiply-adds of one forward pass of one image.

Matrix products and convolutions are counted; norms, activations and softmax are left out. Each
function counts for one kind of model, by the formulas of its paper.
"""

from __future__ import annotations

from vit_colossal.families.shapes import Shape

#: Of the convolution inside of a ConvNeXt block (Liu et al. 2022, arXiv:2201.03545).
_KERNEL = 7


def encoder(shape: Shape, image_size: int, num_labels: int) -> int:
    """A plain encoder (Vaswani et al. 2017; Dosovitskiy et al. 2021)."""
    hidden, patches = shape.hidden_size, (image_size // shape.patch_size) ** 2
    tokens = patches + shape.extra_tokens
    projections = 4 * hidden * hidden * tokens
    attention = 2 * tokens * tokens * hidden
    mlp = (3 if shape.gated else 2) * hidden * shape.intermediate_size * tokens
    embedding = patches * shape.patch_values * hidden
    layers = shape.num_layers * (projections + attention + mlp)
    return embedding + layers + shape.features * num_labels


def windows(shape: Shape, image_size: int, num_labels: int) -> int:
    """Attention within windows (Liu et al. 2021, arXiv:2103.14030, equation 2)."""
    side = image_size // shape.patch_size
    total = side * side * shape.patch_values * shape.hidden_size
    ratio = shape.intermediate_size / shape.hidden_size
    for index, stage in enumerate(shape.stages):
        # A window larger than the image is cut to it; else the image is padded to whole windows.
        window = min(shape.window, side)
        attended = (-(-side // window) * window) ** 2
        projections = 4 * attended * stage.width**2
        attention = 2 * attended * window**2 * stage.width
        mlp = 2 * side * side * int(ratio * stage.width) * stage.width
        total += stage.depth * (projections + attention + mlp)
        if index + 1 < len(shape.stages):
            side = (side + 1) // 2
            total += side * side * 4 * stage.width * 2 * stage.width  # four patches become one
    return total + shape.features * num_labels


def convolutions(shape: Shape, image_size: int, num_labels: int) -> int:
    """ConvNeXt: a convolution for each channel, then an MLP (arXiv:2201.03545, figure 4)."""
    side = image_size // shape.patch_size
    total = side * side * shape.patch_values * shape.hidden_size
    before = shape.hidden_size
    for index, stage in enumerate(shape.stages):
        if index:
            side //= 2
            total += side * side * 4 * before * stage.width
        mlp = 2 * stage.width * 4 * stage.width
        total += stage.depth * side * side * (_KERNEL**2 * stage.width + mlp)
        before = stage.width
    return total + shape.features * num_labels
