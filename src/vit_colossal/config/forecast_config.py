"""The flags of ``vit-colossal plan``: those of training, and on what it would run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from vit_colossal.config.train_config import TrainConfig


class ForecastConfig(TrainConfig):
    """Say which ways to divide a run fit the devices, how much memory each takes, and how long.

    Takes the flags of train; what they name of plugin, degrees, micro-batches and recomputation is
    kept, the rest is tried. Nothing is trained, and only --measure starts processes.
    """

    devices: int | None = Field(None, ge=1, exclude=True)
    """Plan for so many devices of --device-profile, instead of --nproc on this machine."""
    device_profile: (
        Literal[
            "h200-141g", "h100-80g", "a100-80g", "a100-40g", "l40s-48g", "l4-24g", "v100-32g", "cpu"
        ]
        | None
    ) = Field(None, exclude=True)
    """What they are: memory and speed are those of the data sheet, and all is extrapolated."""
    num_labels: int | None = Field(None, ge=2, exclude=True)
    """Labels of the head; default those of --dataset, or 1000 where none is named."""
    measure: bool = Field(False, exclude=True)
    """Measure this machine with --nproc processes for at most a minute, once, and predict the time
    of a step from it."""
    format: Literal["table", "json"] = Field("table", exclude=True)
    """JSON has every candidate."""
    picture: Path | None = Field(None, exclude=True)
    """Draw memory and, where it is known, time of each row of the table into this .png or .svg."""
