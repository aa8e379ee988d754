"""Whether the folders of a run can be used, and whether beginning there would delete anything."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from vit_colossal.checkpoints.resume import wants_resume
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.data.sources.source import missing_path
from vit_colossal.plan import run_folder
from vit_colossal.rundir.lock import held_by, in_use


def path_problems(config: TrainConfig) -> list[str]:
    """Folders and files that are not there or cannot be used."""
    problems = []
    if config.dataset is not None and missing_path(config.dataset):
        problems.append(f"--dataset {config.dataset!r}: no such file or folder")
    path = config.output_dir
    if path is None:
        return problems
    # What a run leaves there would be data, or part of a model, the next time.
    problems += [
        f"--output-dir {path} is the folder of --{flag}: name another"
        for flag, name in (("dataset", config.dataset), ("model", config.model))
        if name and os.path.exists(name) and Path(name).resolve() == path.resolve()
    ]
    # Not Path.exists, which raises where one may not look.
    places = (path, *path.absolute().parents)
    nearest = next(place for place in places if os.path.exists(place))
    if not nearest.is_dir():
        problems.append(f"--output-dir {path}: {nearest} is a file: name a folder")
    elif (reason := _unwritable(nearest)) is not None:
        problems.append(
            f"--output-dir {path}: {nearest} cannot be written to ({reason}): name another folder"
        )
    elif (holder := held_by(path)) is not None:
        problems.append(in_use(path, holder))
    elif _has_begun(path) and not (config.overwrite or wants_resume(config)):
        problems.append(
            f"--output-dir {path} holds a run: add --resume auto or --overwrite, or name another"
        )
    return problems


def lost_problems(config: TrainConfig) -> list[str]:
    """A model that beginning in its folder would delete: before it is read, or unasked."""
    run_dir, name = config.output_dir, Path(config.model or "")
    if run_dir is None or not os.path.isfile(run_dir / run_folder.MODEL / "config.json"):
        return []
    place = f"--output-dir {run_dir}"
    if config.model and run_dir.resolve() in name.resolve().parents:
        return [f"--model {name} lies in {place}, which is begun anew: name another folder"]
    if wants_resume(config) and not config.overwrite:
        return [
            f"--resume {wants_resume(config)}: {place} has a model and no checkpoint to go on "
            "from: add --overwrite to replace it, or name another folder"
        ]
    return []


def _has_begun(path: Path) -> bool:
    """Whether a run left more than its settings, as one does that could not log in somewhere."""
    if not (path / run_folder.CONFIG).exists():
        return False
    metrics = path / run_folder.METRICS
    if metrics.exists() and metrics.stat().st_size > 0:
        return True
    return any((path / name).exists() for name in (run_folder.CHECKPOINTS, run_folder.MODEL))


def _unwritable(folder: Path) -> str | None:
    """Why nothing can be made in a folder: tried, as the administrator may write everywhere."""
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".vit-colossal-", dir=folder))
    except OSError as error:
        return error.strerror or str(error)
    return None
