"""Which checkpoint a run continues from, decided before any process group exists."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vit_colossal.checkpoints.files import differences, listed, named, newest_valid
from vit_colossal.config.reading import TrainConfig
from vit_colossal.data.prepare import RunData
from vit_colossal.errors import ConfigError
from vit_colossal.plan import run_folder
from vit_colossal.plan.checkpoint import Checkpoint
from vit_colossal.plan.plan import RunPlan

logger = logging.getLogger("vit_colossal")


def identity(plan: RunPlan, data: RunData) -> dict[str, Any]:
    """What a continuing run has to agree on: else it would silently train something else."""
    config = plan.config
    spec = asdict(plan.spec)
    for field in ("name", "pretrained", "overrides"):
        del spec[field]
    return {
        "model": spec,
        "labels": list(data.labels),
        "data": data.fingerprint,
        "parameter groups": "one" if config.decay_all or not config.weight_decay else "two",
        "layer decay": config.layer_decay,
        "frozen": config.freeze or config.freeze_layers,
        "weight average": True if config.ema else None,
        "global batch size": plan.batches.global_batch,
        "seed": config.seed,
    }


def layout(plan: RunPlan) -> dict[str, Any]:
    """What decides the order in which a run sums; equal means that resuming is bit-exact."""
    config = plan.config
    return {
        "plugin": config.plugin,
        "degrees": str(plan.dims),
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


def with_checkpoint(plan: RunPlan, data: RunData, *, report: bool) -> RunPlan:
    """The plan with the checkpoint that ``--resume`` means, verified and matching.

    Args:
        plan: the validated run.
        data: its data.
        report: log which checkpoints were passed over.

    Raises:
        ConfigError: there is none, it is damaged, or it belongs to another run.
    """
    which = wants_resume(plan.config)
    if which is None:
        return plan
    checkpoint = _find(which, plan.config, report)
    if checkpoint is None:
        return plan
    wrong = differences(checkpoint.identity, identity(plan, data))
    if wrong:
        head = f"--resume {which}: {checkpoint.path} belongs to another run"
        raise ConfigError([f"{head}: {line}" for line in wrong])
    return replace(plan, checkpoint=checkpoint)


def _find(which: str, config: TrainConfig, report: bool) -> Checkpoint | None:
    if which not in ("auto", "last", "best"):
        return named(Path(which), f"--resume {which}")
    if config.output_dir is None:
        if which == "auto":
            return None
        raise ConfigError([f"--resume {which} needs --output-dir, the folder of the run"])
    root = config.output_dir / run_folder.CHECKPOINTS
    if which == "best":
        return named(root / "best", "--resume best")
    checkpoint, skipped = newest_valid(root)
    if report:
        for reason in skipped:
            logger.warning("skipped %s", reason)
    if checkpoint is None and (which == "last" or listed(root)):
        found = "; ".join(skipped) or f"no checkpoint in {root}"
        raise ConfigError([f"--resume {which}: nothing to continue from: {found}"])
    return checkpoint
