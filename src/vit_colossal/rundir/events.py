"""The events of ``metrics.jsonl``; docs/metrics.md describes them for people."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError


class _Event(BaseModel):
    """Where a run was: optimizer steps taken, epochs done, seconds since training began."""

    # Other tools may add fields; what is here has to be as described.
    model_config = ConfigDict(extra="allow", frozen=True)

    step: int = Field(ge=0)
    epoch: float = Field(ge=0)
    elapsed: float = Field(ge=0)


class StartEvent(_Event):
    """A process group took up the run: once, and again for each resume."""

    event: Literal["start"]
    time: str
    parameters: int
    total_steps: int
    epochs: int
    layout: str
    global_batch: int
    state_memory_mib: float
    attention: str
    optimizer: str


class TrainEvent(_Event):
    """Every ``--log-every`` steps."""

    event: Literal["train"]
    loss: float
    lr: float
    images_per_second: float
    peak_memory_mib: float
    grad_norm: float | None = None


class EvalEvent(_Event):
    """An evaluation of the whole split. Plain loops write no loss."""

    event: Literal["eval"]
    accuracy: float
    correct: int
    total: int
    loss: float | None = None
    correct_top5: int | None = None
    macro_f1: float | None = None


class StopEvent(_Event):
    """A signal ended the run early."""

    event: Literal["stop"]
    signal: int


class EndEvent(_Event):
    """The run is complete, with its model saved."""

    event: Literal["end"]
    accuracy: float


Event = Annotated[
    StartEvent | TrainEvent | EvalEvent | StopEvent | EndEvent, Field(discriminator="event")
]
_ADAPTER: TypeAdapter[Event] = TypeAdapter(Event)


def as_line(values: dict[str, Any]) -> str:
    """An event as a line of the file.

    Raises:
        ValidationError: it is not as described here.
    """
    _ADAPTER.validate_python(values)
    return json.dumps(values)


def parse_events(lines: Iterable[str]) -> tuple[list[Event], int]:
    """Read what can be read.

    Returns:
        The events in their order, and the number of lines that are none: a killed run leaves half a
        line, other versions may write other events.
    """
    events, others = [], 0
    for line in lines:
        try:
            events.append(_ADAPTER.validate_python(json.loads(line)))
        except (ValueError, RecursionError, ValidationError):
            others += 1
    return events, others
