"""What a run writes down about itself: its settings, and what it ran on."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from vit_colossal.data.prepare import RunData
from vit_colossal.plan import run_folder
from vit_colossal.plan.plan import RunPlan
from vit_colossal.rundir.metrics import keep_events
from vit_colossal.version import __version__


def describe_software() -> dict[str, str | None]:
    """Versions of what a result depends on, and the commit of this checkout."""
    packages = ("torch", "colossalai", "transformers", "datasets")
    versions = {name: metadata.version(name) for name in packages}
    return {
        "vit_colossal": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **versions,
    }


def describe_run(run_dir: Path, plan: RunPlan, data: RunData) -> None:
    """config.yaml re-runs the run; environment.json says what it ran on."""
    (run_dir / run_folder.CONFIG).write_text(plan.config.dump(), encoding="utf-8")
    if plan.checkpoint is None:
        shutil.rmtree(run_dir / run_folder.CHECKPOINTS, ignore_errors=True)
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
        "data_fingerprint": data.fingerprint,
        "left_out_images": {"train": len(data.train.bad), "evaluation": len(data.evaluation.bad)},
        "labels": list(data.labels),
    }
    text = json.dumps(environment, indent=2) + "\n"
    (run_dir / run_folder.ENVIRONMENT).write_text(text, encoding="utf-8")


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
