"""Weights & Biases and MLflow, through their own clients; both are asked for by a flag."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.durable import write_durably
from vit_colossal.errors import UserError

logger = logging.getLogger("vit_colossal")

PROJECT = "vit-colossal"

#: In the run directory: the name of each service, and what it calls this run.
IDS_FILE = "trackers.json"

#: What to install for each flag, whose name is also the module's; the extras of setup.py.
_CLIENTS = {"wandb": "wandb", "mlflow": "mlflow-skinny sqlalchemy alembic"}


class Tracker(Protocol):
    """A service that keeps the numbers of a run."""

    name: str
    #: What the service calls the run; given back to it, the run goes on there.
    run_id: str

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self, *, failed: bool) -> None: ...


class WandbTracker:
    """A run of Weights & Biases; ``WANDB_MODE=offline`` keeps it in the run directory."""

    name = "wandb"

    def __init__(self, run_dir: Path, config: TrainConfig, known: str | None) -> None:
        import wandb

        self._run = wandb.init(
            id=known,
            resume="allow" if known else None,
            project=config.tracker_project or os.environ.get("WANDB_PROJECT", PROJECT),
            name=config.tracker_name or os.environ.get("WANDB_NAME", run_dir.name),
            tags=config.tracker_tags,
            dir=str(run_dir),
            config=_settings(config),
            settings=wandb.Settings(console="off"),  # the terminal is ours
        )
        self.run_id = self._run.id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers of one step; those of an evaluation may follow on the same step."""
        self._run.log(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        """Send what is left."""
        self._run.finish(exit_code=int(failed))


class MlflowTracker:
    """A run of MLflow; without ``MLFLOW_TRACKING_URI``, in ``mlflow.db`` of the run directory."""

    name = "mlflow"

    def __init__(self, run_dir: Path, config: TrainConfig, known: str | None) -> None:
        from mlflow import MlflowClient

        file = f"sqlite:///{(run_dir / 'mlflow.db').absolute()}"
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", file))
        if known and self._is_there(known):
            self.run_id = known
            self._client.update_run(known, status="RUNNING")
        else:
            self.run_id = self._create(run_dir.name, config)

    def _is_there(self, run_id: str) -> bool:
        """Not after it was deleted, or with another server."""
        from mlflow.exceptions import MlflowException

        try:
            return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _create(self, default_name: str, config: TrainConfig) -> str:
        """A new run with its settings, which MLflow lets nobody change later."""
        from mlflow.entities import Param

        name = config.tracker_project or os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        run_name = config.tracker_name or default_name
        parts = [tag.partition("=") for tag in config.tracker_tags or ()]
        tags = {key: value for key, _, value in parts}
        run = self._client.create_run(experiment, run_name=run_name, tags=tags)
        run_id = str(run.info.run_id)
        params = [Param(key, str(value)) for key, value in _settings(config).items()]
        self._client.log_batch(run_id, params=params)
        return run_id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers of one step, in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, step) for key, value in values.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def close(self, *, failed: bool) -> None:
        """Mark the run as over."""
        self._client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


_TRACKERS: dict[str, Callable[[Path, TrainConfig, str | None], Tracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}


def _settings(config: TrainConfig) -> dict[str, Any]:
    """What a service is told of a run."""
    return config.model_dump(mode="json", exclude={"unknown"}, exclude_none=True)


def tracker_problems(config: TrainConfig) -> list[str]:
    """A line for each flag whose client is not installed, or that has no effect."""
    named = ("tracker_project", "tracker_name", "tracker_tags")
    idle = [] if config.wandb or config.mlflow else [n for n in named if getattr(config, n)]
    return [
        f"--{name.replace('_', '-')}: nothing is sent anywhere: add --wandb or --mlflow"
        for name in idle
    ] + [
        f"--{name}: its client is not installed: pip install {packages}, or drop --{name}"
        for name, packages in _CLIENTS.items()
        if getattr(config, name) and importlib.util.find_spec(name) is None
    ]


def open_trackers(run_dir: Path, config: TrainConfig, *, resumed: bool) -> list[Tracker]:
    """The services that the configuration names.

    Args:
        run_dir: the run directory, which keeps what each service calls the run.
        config: the run.
        resumed: whether the run goes on from a checkpoint, and so under the same name.

    Raises:
        UserError: one cannot be reached, or wants a login.
    """
    opened: list[Tracker] = []
    ids = _known_ids(run_dir) if resumed else {}
    for name, kind in _TRACKERS.items():
        if getattr(config, name):
            try:
                opened.append(kind(run_dir, config, ids.get(name)))
            except Exception as error:  # each client has errors of its own
                reason = " ".join(str(error).split())
                hint = "; WANDB_MODE=offline needs no login" if name == "wandb" else ""
                raise UserError(f"--{name}: cannot start: {reason}{hint}") from error
    ids |= {tracker.name: tracker.run_id for tracker in opened}
    (run_dir / IDS_FILE).unlink(missing_ok=True)
    if ids:
        write_durably(run_dir / IDS_FILE, json.dumps(ids) + "\n")
    return opened


def _known_ids(run_dir: Path) -> dict[str, str]:
    """What each service called an earlier part of the run; {} where that cannot be read."""
    with suppress(OSError, ValueError):
        found = json.loads((run_dir / IDS_FILE).read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {name: value for name, value in found.items() if isinstance(value, str)}
    return {}


def log_to(trackers: list[Tracker], values: Mapping[str, float], step: int) -> None:
    """Send to all; one that fails is dropped with a warning, for training does not depend on it."""
    for tracker in list(trackers):
        try:
            tracker.log(values, step)
        except Exception as error:  # as above
            logger.warning("--%s: %s; it gets no more of this run", tracker.name, error)
            trackers.remove(tracker)


def close_all(trackers: list[Tracker], *, failed: bool) -> None:
    """Close all; one that cannot send its rest says so."""
    for tracker in trackers:
        try:
            tracker.close(failed=failed)
        except Exception as error:  # as above
            logger.warning("--%s: %s; what it has is not complete", tracker.name, error)
