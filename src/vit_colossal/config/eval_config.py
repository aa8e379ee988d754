"""The flags of ``vit-colossal eval``: those of training, and which saved model."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import CliPositionalArg

from vit_colossal.config.train_config import TrainConfig


class EvalConfig(TrainConfig):
    """Evaluate a trained model on a whole split, each image once.

    RUN is a run directory, a model directory or a checkpoint; --model names one as well. A run is
    evaluated on its own data unless --dataset or --eval-split says otherwise. Of the settings
    below, those of training have no effect.
    """

    run: CliPositionalArg[str | None] = Field(None, exclude=True)
    """A run directory, a model directory, or the folder of a checkpoint."""
    checkpoint: str | None = None
    """Of a run: last, best, or a checkpoint's path, instead of its final model."""
