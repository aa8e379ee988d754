"""One case of a benchmark, as the parent hands it to its workers, and where its numbers go."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_colossal.config.train_config import TrainConfig

#: The first steps whose losses are kept, to show that the cases did the same work.
LOSSES = 5


@dataclass(frozen=True)
class BenchCase:
    """What is measured.

    Attributes:
        name: as the tables show it.
        config: the run.
        processes: how many processes run it.
        threads: CPU threads of each.
        data: ``synthetic`` images held in memory, or ``real`` ones through the loader.
        steps, warmup: optimizer steps that are timed, and steps before them that are not.
        peer: a script to run in place of a plugin, with the flags of ``bench.peer``.
    """

    name: str
    config: TrainConfig
    processes: int
    threads: int
    data: str
    steps: int
    warmup: int
    peer: Path | None = None

    def to_json(self) -> dict[str, Any]:
        config = self.config.model_dump(mode="json", by_alias=True, exclude={"unknown"})
        peer = None if self.peer is None else str(self.peer)
        return {**vars(self), "config": config, "peer": peer}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> BenchCase:
        config = TrainConfig.model_validate(values["config"])
        peer = None if values["peer"] is None else Path(values["peer"])
        return cls(**{**values, "config": config, "peer": peer})

    @property
    def digest(self) -> str:
        """Changes with anything that changes what is measured, so that old numbers are not used."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def slug(self) -> str:
        """A file name that a person recognizes."""
        return f"{re.sub(r'[^A-Za-z0-9.]+', '-', self.name).strip('-')}-{self.digest}"


@dataclass(frozen=True)
class Order:
    """What one launch does: a file that its processes read.

    Attributes:
        case: the case.
        work: folder with the case's images and initial weights.
        result: file for the numbers.
        started: when the launch began, in seconds since the epoch.
        profile_steps: further steps, taken under the profiler after the timed ones; 0 for none.
    """

    case: BenchCase
    work: Path
    result: Path
    started: float
    profile_steps: int

    def write(self, path: Path) -> None:
        values = {
            "case": self.case.to_json(),
            "work": str(self.work),
            "result": str(self.result),
            "started": self.started,
            "profile_steps": self.profile_steps,
        }
        path.write_text(json.dumps(values), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Order:
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            case=BenchCase.from_json(values["case"]),
            work=Path(values["work"]),
            result=Path(values["result"]),
            started=values["started"],
            profile_steps=values["profile_steps"],
        )


def write_result(path: Path, values: dict[str, Any]) -> None:
    """Write one repetition's numbers, complete or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values), encoding="utf-8")
    partial.replace(path)
