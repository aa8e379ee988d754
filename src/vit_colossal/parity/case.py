"""One run of a parity comparison, as the parent hands it to its workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_colossal.config.train_config import TrainConfig


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        name: as the table shows it.
        trainer_optim: the optimizer of ``transformers.Trainer``; None runs a layout of ours.
        processes: how many processes run it.
        config: the run's configuration.
        trace_dir: where its trace goes.
        place: which one of all it is, as in 3/28.
    """

    name: str
    trainer_optim: str | None
    processes: int
    config: TrainConfig
    trace_dir: Path
    place: str = ""

    def to_json(self) -> dict[str, Any]:
        config = self.config.model_dump(mode="json", by_alias=True, exclude={"unknown"})
        return {**vars(self), "config": config, "trace_dir": str(self.trace_dir)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Case:
        config = TrainConfig.model_validate(values["config"])
        return cls(**{**values, "config": config, "trace_dir": Path(values["trace_dir"])})
