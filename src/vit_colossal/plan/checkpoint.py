"""The checkpoint that a run continues from, and what the steps before it were trained with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint.

    Attributes:
        path: its folder.
        step: optimizer steps taken.
        identity: what has to agree to continue (model, labels, data, ...), and the layout.
        state: where the run was, and what ``TrainState.values`` held.
        manifest: SHA-256 of its manifest, and so of all that it holds.
    """

    path: Path
    step: int
    identity: dict[str, Any]
    state: dict[str, Any]
    manifest: str = ""


@dataclass(frozen=True)
class Segment:
    """A part of a run that was trained with one set of settings.

    Attributes:
        first_step: optimizer steps taken before it.
        settings: as in config.yaml.
    """

    first_step: int
    settings: dict[str, Any]
