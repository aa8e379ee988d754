"""Weights & Biases and MLflow, through their own clients; both are asked for by a flag."""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from vit_colossal.config import TrainConfig
from vit_colossal.errors import UserError

logger = logging.getLogger("vit_colossal")

PROJECT = "vit-colossal"

#: What to install for each flag, whose name is also the module's; the extras of setup.py.
_CLIENTS = {"wandb": "wandb", "mlflow": "mlflow-skinny sqlalchemy alembic"}


class Tracker(Protocol):
    """A service that keeps the numbers of a run."""

    name: str

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self, *, failed: bool) -> None: ...


class WandbTracker:
    """A run of Weights & Biases; ``WANDB_MODE=offline`` keeps it in the run directory."""

    name = "wandb"

    def __init__(self, run_dir: Path, settings: dict[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_dir.name,
            dir=str(run_dir),
            config=settings,
            settings=wandb.Settings(console="off"),  # the terminal is ours
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers of one step; those of an evaluation may follow on the same step."""
        self._run.log(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        """Send what is left."""
        self._run.finish(exit_code=int(failed))


class MlflowTracker:
    """A run of MLflow; without ``MLFLOW_TRACKING_URI``, in ``mlflow.db`` of the run directory."""

    name = "mlflow"

    def __init__(self, run_dir: Path, settings: dict[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        file = f"sqlite:///{(run_dir / 'mlflow.db').absolute()}"
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", file))
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        run = self._client.create_run(experiment, run_name=run_dir.name)
        self._id = run.info.run_id
        params = [Param(key, str(value)) for key, value in settings.items()]
        self._client.log_batch(self._id, params=params)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers of one step, in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, step) for key, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, *, failed: bool) -> None:
        """Mark the run as over."""
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


_TRACKERS: dict[str, Callable[[Path, dict[str, Any]], Tracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}


def missing_clients(config: TrainConfig) -> list[str]:
    """A line for each flag whose client is not installed."""
    return [
        f"--{name}: its client is not installed: pip install {packages}, or drop --{name}"
        for name, packages in _CLIENTS.items()
        if getattr(config, name) and importlib.util.find_spec(name) is None
    ]


def open_trackers(run_dir: Path, config: TrainConfig) -> list[Tracker]:
    """The services that the configuration names.

    Raises:
        UserError: one cannot be reached, or wants a login.
    """
    settings = config.model_dump(mode="json", exclude={"unknown"}, exclude_none=True)
    opened: list[Tracker] = []
    for name, kind in _TRACKERS.items():
        if getattr(config, name):
            try:
                opened.append(kind(run_dir, settings))
            except Exception as error:  # each client has errors of its own
                reason = " ".join(str(error).split())
                hint = "; WANDB_MODE=offline needs no login" if name == "wandb" else ""
                raise UserError(f"--{name}: cannot start: {reason}{hint}") from error
    return opened


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
