"""Which checkpoint a run continues from, and what has to agree with it."""

from __future__ import annotations

import logging
import os
from typing import Any

from vit_colossal.checkpoints.files import in_run, listed, named, newest_valid
from vit_colossal.config.optimizers import moments_of
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.data.prepare import RunData
from vit_colossal.errors import ConfigError
from vit_colossal.plan import run_folder
from vit_colossal.plan.checkpoint import Checkpoint
from vit_colossal.plan.epoch_cut import epoch_cut
from vit_colossal.plan.plan import RunPlan

logger = logging.getLogger("vit_colossal")


def identity(plan: RunPlan, data: RunData) -> dict[str, Any]:
    """What a continuing run has to agree on: else it would silently train something else."""
    config = plan.config
    return {
        "model": plan.spec.identity(),
        "labels": list(data.labels),
        "data": data.fingerprint,
        "large JPEGs": "decoded at a part of their size" if config.jpeg_draft else None,
        "parameter groups": "one" if config.decay_all or not config.weight_decay else "two",
        "layer decay": config.layer_decay,
        "frozen": config.freeze or config.freeze_layers,
        "lora": _adapters(config),
        "weight average": True if config.ema else None,
        "global batch size": plan.batches.global_batch,
        "optimizer": None if config.optimizer == "adamw" else _optimizer(config),
        "order": None if config.order is None else f"Trainer's on {epoch_cut(config)}",
        "last batch": "train" if config.last_batch == "train" and config.order is None else None,
        "sampler": None if config.sampler == "shuffle" else config.sampler,
        "class weights": None if config.class_weights == "none" else config.class_weights,
        "seed": config.seed,
    }


def _adapters(config: TrainConfig) -> dict[str, float] | None:
    rank = config.lora_rank
    return None if rank is None else {"rank": rank, "scale": config.lora_scale}


def _optimizer(config: TrainConfig) -> str:
    return config.optimizer + ("" if moments_of(config) else " without momentum")


def layout(plan: RunPlan) -> dict[str, Any]:
    """What decides the order in which a run sums; equal means that resuming is bit-exact."""
    config = plan.config
    given = config.layers_per_stage
    stages = "" if given is None else f", {given} layers"
    return {
        "plugin": config.plugin,
        "degrees": str(plan.dims) + stages,
        "zero": config.zero,
        "precision": config.precision,
        "batches": str(plan.batches),
        "device": plan.device.kind,
    }


def wants_resume(config: TrainConfig) -> str | None:
    """``--resume``; a worker that torchrun starts again resumes by itself."""
    if config.resume is None and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        return "auto"
    return config.resume


def find_checkpoint(config: TrainConfig, *, report: bool) -> Checkpoint | None:
    """The checkpoint that ``--resume`` means, verified; None to start from the beginning.

    Args:
        config: the run.
        report: log which checkpoints were passed over.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    which = wants_resume(config)
    if which is None:
        return None
    if which not in ("auto", run_folder.LAST, run_folder.BEST):
        run_dir = config.output_dir
        root = None if run_dir is None else run_dir / run_folder.CHECKPOINTS
        return named(in_run(root, which), f"--resume {which}")
    if config.output_dir is None:
        if which == "auto":
            return None
        raise ConfigError([f"--resume {which} needs --output-dir, the folder of the run"])
    root = config.output_dir / run_folder.CHECKPOINTS
    if which == run_folder.BEST:
        return named(root / run_folder.BEST, "--resume best")
    checkpoint, skipped = newest_valid(root)
    if report:
        for reason in skipped:
            logger.warning("skipped %s", reason)
    if checkpoint is None and (which == run_folder.LAST or listed(root)):
        found = "; ".join(skipped) or f"no checkpoint in {root}"
        raise ConfigError([f"--resume {which}: nothing to continue from: {found}"])
    return checkpoint
