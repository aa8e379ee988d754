"""What a run leaves, how it continues and when it gives up."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field, FiniteFloat

from vit_colossal.config.settings.base import Settings, alias


class OutputSettings(Settings):
    """The run directory, checkpoints, limits and reports."""

    title: ClassVar[str] = "what is kept"

    output_dir: Path | None = alias("output_dir", "output_path")
    """The run directory; default runs/DATASET-PLUGIN-TIME."""
    overwrite: bool = Field(False, exclude=True)
    """Replace the run that --output-dir holds."""
    resume: str | None = None
    """Continue: auto (if the run has a checkpoint), last, best, or a checkpoint by its name in the
    run or its path."""
    save_every: int | None = Field(None, ge=0)
    """Steps between checkpoints; default after each epoch, 0 for none."""
    async_save: bool = False
    """Go on training while a checkpoint's files are written."""
    keep_last: int = Field(2, ge=1)
    """Checkpoints kept beside the best one."""
    keep_best: bool = True
    """Keep the checkpoint with the best evaluation accuracy."""
    max_bad_steps: int = Field(3, ge=1)
    """Stop after this many consecutive steps whose loss is not finite."""
    timeout: FiniteFloat = Field(120.0, gt=0)
    """Seconds after which a rank that hangs ends the run (start-up: at least 600)."""
    log_every: int = Field(10, ge=1)
    """Steps between log lines, but one an epoch at least."""
    tensorboard: bool = True
    """Write TensorBoard events where tensorboard is installed."""
    wandb: bool = False
    """Send the metrics to Weights & Biases too (pip install wandb)."""
    mlflow: bool = False
    """Send the metrics to MLflow too (pip install mlflow-skinny sqlalchemy alembic)."""
    tracker_project: str | None = Field(None, min_length=1)
    """The project at Weights & Biases, the experiment at MLflow; default: what WANDB_PROJECT and
    MLFLOW_EXPERIMENT_NAME say, else vit-colossal."""
    tracker_name: str | None = Field(None, min_length=1)
    """What the run is called there; default: at W&B what WANDB_NAME says, else the name of the
    run directory."""
    tracker_tags: list[str] | None = None
    """Tags of the run there, separated by commas; of NAME=VALUE MLflow makes a tag with a value."""
    dry_run: bool = Field(False, exclude=True)
    """Validate, build the model in its layout, print the plan and stop; nothing is written but
    the image cache."""
    check_reference: str | None = Field(None, exclude=True)
    """After training, compare the accuracy with this reference; exit with 3 if it is significantly
    below."""
    references: Path | None = Field(None, exclude=True)
    """File with the reference that --check-reference names; default the package's own."""
    memory_check: bool = Field(True, exclude=True)
    """Refuse a run that would take over 1.1 times the memory that is free, by what
    `vit-colossal plan` predicts."""
    debug: bool = Field(False, exclude=True)
    """Show tracebacks."""
