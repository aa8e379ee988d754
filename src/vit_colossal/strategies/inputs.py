"""What a batch is for the model: on the device, normalized, mixed."""

from __future__ import annotations

from typing import Any

import torch

from vit_colossal.data.mixing import mix_pixels
from vit_colossal.data.samples import Batch
from vit_colossal.strategies.engine import Engine


def stage_inputs(engine: Engine, batch: Batch) -> dict[str, Any]:
    """What this stage reads: pixels on the first; labels, from which all tell the batch's size."""
    inputs = {"labels": batch.labels.to(engine.device, non_blocking=True)}
    if engine.first_stage:
        inputs["pixel_values"] = pixels(engine, batch)
    return inputs


def pixels(engine: Engine, batch: Batch) -> torch.Tensor:
    """Normalized and, if the batch says so, mixed: fp32 [b, C, H, W] on the device."""
    images = engine.pixels(batch.images)
    if batch.mix is None:
        return images
    return mix_pixels(images, engine.pixels(batch.mix.image), batch.mix.draw)
