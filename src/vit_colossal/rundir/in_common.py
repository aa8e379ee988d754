"""What all ranks of a run have to have in common, each fact as those who decide it know it."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vit_colossal.checkpoints.resume import wants_resume
from vit_colossal.config.settings.base import spellings
from vit_colossal.config.train_config import OWN_TO_A_HOST, TrainConfig
from vit_colossal.data.pixels import CachedSplit, images_digest
from vit_colossal.model.preprocessing import Preprocessing
from vit_colossal.plan.checkpoint import Checkpoint
from vit_colossal.plan.model_files import weights_digest
from vit_colossal.plan.plan import RunPlan
from vit_colossal.rundir.record import versions
from vit_colossal.runtime.agreement import Fact

#: Versions that decide a result; those of the others may.
_BINDING = ("torch", "colossalai", "transformers")
_OTHERS = ("datasets", "numpy", "pillow", "safetensors")

_SAME_DATA = "give all hosts the same data"
_DIGITS = 12


def plan_facts(plan: RunPlan) -> dict[str, Fact]:
    """The settings that are the run, and what was made of them here."""
    names, values = spellings(type(plan.config)), dict(plan.config)
    facts = {
        f"--{names[name][0].replace('_', '-')}": Fact(json.dumps(value, default=str))
        for name, value in values.items()
        if name not in OWN_TO_A_HOST
    }
    facts["device"] = Fact(plan.device.kind, "choose one with --device")
    return facts | {"layout": Fact(f"{plan.dims}, {plan.batches}")}


def version_facts() -> dict[str, Fact]:
    """What computes."""
    install = "install the same version on all hosts"
    facts = {name: Fact(version, install) for name, version in versions(*_BINDING).items()}
    others = {"python": platform.python_version(), **versions(*_OTHERS)}
    return {name: Fact(version, install, binding=False) for name, version in others.items()} | facts


def data_facts(
    fingerprint: str, splits: Mapping[str, CachedSplit], how: Preprocessing
) -> dict[str, Fact]:
    """The images: as they lie there, as they were decoded, and as the model sees them.

    Args:
        fingerprint: of the data set.
        splits: by name.
        how: how they were decoded, and are normalized.
    """
    facts = {"data": Fact(f"fingerprint {fingerprint[:_DIGITS]}", _SAME_DATA)}
    for name, split in splits.items():
        digest = hashlib.sha256(images_digest(split.images).encode() + split.labels.tobytes())
        decoded = f"{len(split)} with pixels and labels {digest.hexdigest()[:_DIGITS]}"
        facts[f"{name} images"] = Fact(decoded, f"{_SAME_DATA} and the same version of pillow")
    prepared = {name: value for name, value in asdict(how).items() if name != "notes"}
    return facts | {"how images are prepared": Fact(json.dumps(prepared, default=str))}


def model_facts(plan: RunPlan, *, weights: bool) -> dict[str, Fact]:
    """The model that is trained or evaluated.

    Args:
        plan: with its shape.
        weights: read its files; one rank of a host is enough.
    """
    shape: dict[str, Any] = asdict(plan.spec)
    name, pretrained = shape.pop("name"), shape.pop("pretrained")
    if plan.checkpoint is not None:  # which has all weights; one host may know a run, another none
        return {}
    facts = {"the model's shape": Fact(json.dumps(shape, sort_keys=True))}
    if not pretrained:
        return facts | {"--model": Fact(name)}
    if weights:
        digest = f"weights {weights_digest(name)[:_DIGITS]}"
        facts["--model"] = Fact(digest, "give all hosts the same files")
    return facts


def checkpoint_facts(config: TrainConfig, checkpoint: Checkpoint | None) -> dict[str, Fact]:
    """What the run goes on from; and whether it is to go on, which decides what is overwritten."""
    where = "begins at step 0"
    if checkpoint is not None:
        where = f"goes on from step {checkpoint.step} (manifest {checkpoint.manifest[:_DIGITS]})"
    advice = "give all hosts the same --resume and checkpoints"
    resumes = "no" if wants_resume(config) is None else "yes"
    return {"checkpoint": Fact(where, advice), "--resume": Fact(resumes, advice)}
