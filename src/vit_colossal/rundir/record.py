"""What a run writes down about itself: its settings, and what it ran on."""

from __future__ import annotations

import json
import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml

from vit_colossal.data.prepare import RunData
from vit_colossal.durable import filling, remove, write_durably
from vit_colossal.errors import ConfigError
from vit_colossal.plan import run_folder
from vit_colossal.plan.checkpoint import Segment
from vit_colossal.plan.plan import RunPlan
from vit_colossal.rundir.data_record import describe_data, write_data_record
from vit_colossal.rundir.metrics import keep_events
from vit_colossal.rundir.segments import places, settings_of, write_segments
from vit_colossal.version import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, ViTImageProcessorPil


#: What is of no use to a run that begins in the place of another, and would mislead it.
_OF_AN_END = (run_folder.CHECKPOINTS, run_folder.MODEL, run_folder.ADAPTER, run_folder.SUMS)


def versions(*packages: str) -> dict[str, str]:
    """The versions of installed packages, and of this one; of a source tree there is none."""
    found = {"vit_colossal": __version__}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def describe_software() -> dict[str, str | None]:
    """Versions of what a result depends on, and the commit of this checkout."""
    own, *others = versions("torch", "colossalai", "transformers", "datasets").items()
    python = ("python", platform.python_version())
    return dict([own, ("commit", _commit()), python, *others])


def describe_run(run_dir: Path, plan: RunPlan, data: RunData) -> None:
    """config.yaml re-runs the run, segments.jsonl keeps what each part of it was trained with.

    data.json says which images those are, environment.json what it runs on.
    """
    segments = plan.segments or (Segment(0, settings_of(plan.config.dump())),)
    settings = {**segments[-1].settings, **places(settings_of(plan.config.dump()))}
    if plan.checkpoint is None:
        _begin_anew(run_dir)
    write_data_record(run_dir, describe_data(plan.config, data))
    write_segments(run_dir, segments)
    write_durably(run_dir / run_folder.CONFIG, yaml.safe_dump(settings, sort_keys=False))
    keep_events(run_dir / run_folder.METRICS, plan.checkpoint.step if plan.checkpoint else -1)
    device = torch.cuda.get_device_name() if plan.device.kind == "cuda" else platform.processor()
    environment = {
        **describe_software(),
        "platform": platform.platform(),
        "device": plan.device.kind,
        "device_name": device,
        "world_size": plan.dims.world_size,
        "layout": str(plan.dims),
        "threads": torch.get_num_threads(),
        "dataset": data.name,
        "eval_split": data.eval_split,
        "data_read": [*data.overview, *data.notes],
        "data_fingerprint": data.fingerprint,
        "left_out_images": {"train": len(data.train.bad), "evaluation": len(data.evaluation.bad)},
        "labels": list(data.labels),
    }
    text = json.dumps(environment, indent=2) + "\n"
    write_durably(run_dir / run_folder.ENVIRONMENT, text)


def _begin_anew(run_dir: Path) -> None:
    """Remove what an earlier run has left: a checkpoint of it would be taken for one of this run.

    Raises:
        ConfigError: it cannot be removed.
    """
    for name in _OF_AN_END:
        try:
            remove(run_dir / name)
        except OSError as error:
            what = f"--output-dir {run_dir}: {name} of the run before cannot be removed"
            raise ConfigError([f"{what} ({error.strerror}): name another folder"]) from None


def keep_base(run_dir: Path, config: PreTrainedConfig, processor: ViTImageProcessorPil) -> None:
    """What makes a model of a checkpoint, so that nobody needs the one that training began with.

    Args:
        run_dir: the run directory.
        config: of the model, with its labels.
        processor: that training uses.
    """
    with filling(run_dir / run_folder.BASE) as base:
        config.save_pretrained(base)
        processor.save_pretrained(base)


def _commit() -> str | None:
    """The commit of the checkout this package runs from, if it runs from one."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
