"""With which settings each part of a run was trained: ``segments.jsonl``, a line for each part.

A run that is continued with other settings is of none of them alone. The file keeps all, so that a
report, a reference check and a model card can say so; config.yaml has those of the last part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from vit_colossal.config.train_config import CUTS, RECIPE, TrainConfig, implied
from vit_colossal.durable import write_durably
from vit_colossal.errors import ConfigError
from vit_colossal.plan import run_folder
from vit_colossal.plan.checkpoint import Segment
from vit_colossal.plan.recipe import settled
from vit_colossal.text import json_object, shown

#: Settings that say where a run lies and how it was started, not what it is.
PLACES = ("output_dir", "resume", "cache_dir")
#: The settings whose change on the way makes another run of it. The others of the recipe cut the
#: same batch in another way, or are told by the fingerprint of the data.
DECISIVE = tuple(name for name in RECIPE if name not in (*CUTS, "max_train_samples"))


@dataclass(frozen=True)
class Change:
    """One setting that differs.

    Attributes:
        name: as in config.yaml.
        before, now: the values; None where it is not set.
        decisive: the result may differ too.
    """

    name: str
    before: Any
    now: Any
    decisive: bool

    def __str__(self) -> str:
        before, now = ("none" if v is None else shown(str(v)) for v in (self.before, self.now))
        return f"--{self.name.replace('_', '-')} {before} -> {now}"


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """The settings that differ, in the order of config.yaml; without those of places."""
    # Other versions know other settings: what one does not name has its default.
    defaults = settled(TrainConfig.model_validate({})).model_dump(mode="json", by_alias=True)
    before, now = ({**defaults, **implied(values), **values} for values in (before, now))
    names = [name for name in defaults if name not in PLACES and before[name] != now[name]]
    same_end = before["max_steps"] is not None and "max_steps" not in names
    scheduled = any(v["lr_schedule"] != "constant" or v["warmup_ratio"] for v in (before, now))
    return [
        Change(name, before[name], now[name], decisive=_decisive(name, scheduled=scheduled))
        for name in names
        if not (name == "epochs" and same_end)
    ]


def _decisive(name: str, *, scheduled: bool) -> bool:
    """A longer run of a constant rate does the same steps first."""
    return name in DECISIVE and (scheduled or name not in ("epochs", "max_steps"))


def settings_of(dump: str) -> dict[str, Any]:
    """The settings that a ``TrainConfig.dump`` holds."""
    values = yaml.safe_load(dump)
    return values if isinstance(values, dict) else {}


def places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of some settings, those that say where the run lies."""
    return {name: value for name, value in settings.items() if name in PLACES}


def write_segments(run_dir: Path, segments: Sequence[Segment]) -> None:
    """Write all parts of a run.

    Raises:
        OSError: the file cannot be written.
    """
    lines = [
        json.dumps({"first_step": part.first_step, "settings": part.settings}) for part in segments
    ]
    write_durably(run_dir / run_folder.SEGMENTS, "".join(f"{line}\n" for line in lines))


def read_segments(run_dir: Path) -> tuple[Segment, ...]:
    """The parts of a run; of one that an earlier version wrote, config.yaml as its only one.

    Raises:
        ConfigError: the file is damaged.
    """
    path = run_dir / run_folder.SEGMENTS
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return _from_config(run_dir / run_folder.CONFIG)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: unreadable ({error})"]) from None
    parts = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            values = json_object(line)
            first_step, settings = values["first_step"], values["settings"]
            if type(first_step) is not int or not isinstance(settings, dict):
                raise ValueError("has no step or no settings")
        except (ValueError, KeyError) as error:
            raise ConfigError([f"{path}: line {number} {error}: restore or delete it"]) from None
        parts.append(Segment(first_step, settings))
    return tuple(parts)


def _from_config(path: Path) -> tuple[Segment, ...]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ()
    return (Segment(0, settings),) if isinstance(settings, dict) else ()


def until(segments: Sequence[Segment], step: int) -> tuple[Segment, ...]:
    """The parts that ``step`` optimizer steps were trained with."""
    return tuple(part for part in segments if part.first_step < max(step, 1))


def turns(segments: Sequence[Segment]) -> list[str]:
    """Where a run became another one: a line for each part that changed what decides the result."""
    lines = []
    for before, part in pairwise(segments):
        found = [change for change in changes(before.settings, part.settings) if change.decisive]
        if found:
            lines.append(f"from step {part.first_step}: {', '.join(map(str, found))}")
    return lines
