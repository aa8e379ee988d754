"""What a run directory says about its run: read strictly, for a judgement rests on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from vit_colossal.config.train_config import RECIPE, TrainConfig, implied, problems_of
from vit_colossal.errors import ConfigError
from vit_colossal.plan import run_folder
from vit_colossal.plan.recipe import settled
from vit_colossal.rundir.events import EndEvent, EvalEvent
from vit_colossal.rundir.lenient import text_of
from vit_colossal.rundir.references import Result, RunLayout, Value
from vit_colossal.rundir.segments import read_segments, turns, until
from vit_colossal.text import json_object

VERSIONS = ("vit_colossal", "python", "torch", "colossalai", "transformers", "datasets")

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Subject:
    """Model and data of a run: what has to agree before accuracies may be compared.

    Attributes:
        model: as configured; ``model_overrides`` are the preset's changed keys.
        dataset: name with aliases resolved.
        train_split, split: names of the training and the evaluation split.
        labels: label names, in order.
        fingerprint: identity of the data.
        eval_images: images that are evaluated.
    """

    model: str
    model_overrides: dict[str, Value]
    dataset: str
    train_split: str
    split: str
    labels: tuple[str, ...]
    fingerprint: str
    eval_images: int


@dataclass(frozen=True)
class FinishedRun:
    """A run that ended, and its last evaluation; ``turns`` say where its settings were changed."""

    directory: Path
    subject: Subject
    layout: RunLayout
    settings: dict[str, Value]
    result: Result
    commit: str | None
    versions: dict[str, str]
    device: str = ""
    turns: tuple[str, ...] = ()


class Environment(BaseModel):
    """What is needed of environment.json."""

    dataset: str
    eval_split: str
    data_fingerprint: str = Field(min_length=1)
    labels: tuple[str, ...] = Field(min_length=1)
    left_out_images: dict[str, int] = {}
    world_size: int = Field(ge=1)
    commit: str | None = None
    device: str = ""
    device_name: str = ""
    plain_loop: bool = False


def read_run(directory: Path, step: int | None = None) -> FinishedRun:
    """Read a finished run, or how a run stood at one of its evaluations.

    Args:
        directory: holds config.yaml, environment.json and metrics.jsonl.
        step: take the evaluation after this step; the run need not have ended.

    Raises:
        ConfigError: something is missing, unreadable or contradictory, or the run has not ended.
    """
    if not directory.is_dir():
        raise ConfigError([f"{directory}: no such run directory"])
    values = _read_json(directory / run_folder.ENVIRONMENT)
    environment = _validated(Environment, values, directory / run_folder.ENVIRONMENT)
    events = _read_events(directory / run_folder.METRICS)
    segments = read_segments(directory)
    config = read_run_config(directory)
    if step is not None:
        segments = until(segments, step)
        if segments:
            config = _config_of(segments[-1].settings, directory / run_folder.SEGMENTS)
    if step is None:
        result = _last_evaluation(directory / run_folder.METRICS, events, config.seed)
    else:
        result = _evaluation_at(directory / run_folder.METRICS, events, config.seed, step)
    subject = Subject(
        model=config.model or "",
        model_overrides=dict(config.model_overrides),
        dataset=environment.dataset,
        train_split=config.train_split or "train",
        split=environment.eval_split,
        labels=environment.labels,
        fingerprint=environment.data_fingerprint,
        eval_images=result.total,
    )
    layout = RunLayout(
        plugin="plain" if environment.plain_loop else config.plugin,
        tp=config.tp,
        pp=config.pp,
        zero=config.zero,
        processes=environment.world_size,
    )
    versions = {name: str(values[name]) for name in VERSIONS if name in values}
    settings = hyperparameters(config)
    device = environment.device_name or environment.device
    return FinishedRun(
        directory=directory,
        subject=subject,
        layout=layout,
        settings=settings,
        result=result,
        commit=environment.commit,
        versions=versions,
        device=device,
        turns=tuple(turns(segments)),
    )


def read_environment(directory: Path) -> Environment:
    """What a run says of the machine and the data.

    Raises:
        ConfigError: its environment.json is missing or is none.
    """
    path = directory / run_folder.ENVIRONMENT
    return _validated(Environment, _read_json(path), path)


def has_gone_on(directory: Path) -> bool:
    """Whether a run reported something after its end: its model is then of an earlier one."""
    try:
        lines = text_of(directory / run_folder.METRICS).splitlines()
        return bool(lines) and json.loads(lines[-1]).get("event") != "end"
    except FileNotFoundError:
        return False
    except (OSError, ValueError, AttributeError):
        return True


def with_defaults(settings: Mapping[str, Value]) -> dict[str, Value]:
    """The settings of a reference, with those that did not exist yet as they act when not given."""
    defaults = hyperparameters(settled(TrainConfig.model_validate({})))
    return {**defaults, **implied(settings), **settings}


def hyperparameters(config: TrainConfig) -> dict[str, Value]:
    """The settings that a reference records, without those that are not set."""
    values = {name: getattr(config, name) for name in RECIPE}
    return {name: value for name, value in values.items() if value is not None}


def read_run_config(directory: Path) -> TrainConfig:
    """The resolved settings of a run, finished or not.

    Raises:
        ConfigError: its config.yaml is missing or is none.
    """
    path = directory / run_folder.CONFIG
    try:
        values = yaml.safe_load(_read_text(path))
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError([f"{path}: not the configuration of a run ({reason})"]) from None
    return _config_of(values, path)


def _config_of(values: Any, path: Path) -> TrainConfig:
    what = f"{path}: not the configuration of a run"
    if not isinstance(values, dict):
        raise ConfigError([f"{what} (expected 'key: value' lines)"])
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError([f"{what}: {line}" for line in problems_of(error)]) from None


def _read_events(path: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            raise ConfigError(
                [f"{path}: line {number} is not JSON: was the run cut off?"]
            ) from None
        events += [event] if isinstance(event, dict) else []
    return events


def _evaluation_at(path: Path, events: list[dict[str, Any]], seed: int, step: int) -> Result:
    """The "eval" event after ``step``."""
    found = [event for event in events if event.get("event") == "eval" and event["step"] == step]
    if not found:
        raise ConfigError([f"{path}: nothing was evaluated after step {step}"])
    return _result(path, _validated(EvalEvent, found[-1], path), seed)


def _result(path: Path, evaluation: EvalEvent, seed: int) -> Result:
    try:
        return Result(seed=seed, correct=evaluation.correct, total=evaluation.total)
    except ValidationError:
        counts = f"{evaluation.correct} of {evaluation.total}"
        raise ConfigError([f"{path}: the last evaluation counts {counts} images"]) from None


def _last_evaluation(path: Path, events: list[dict[str, Any]], seed: int) -> Result:
    """The last "eval" event, if an "end" event after it says that it is the result."""
    kinds = [event.get("event") for event in events]
    last = {kind: len(kinds) - 1 - kinds[::-1].index(kind) for kind in set(kinds)}
    if "end" not in last or last["end"] < max(last.get("train", 0), last.get("eval", 0)):
        raise ConfigError([f'{path}: no "end" event: the run has not finished'])
    if "eval" not in last:
        raise ConfigError([f'{path}: no "eval" event: the run was never evaluated'])
    evaluation = _validated(EvalEvent, events[last["eval"]], path)
    end = _validated(EndEvent, events[last["end"]], path)
    result = _result(path, evaluation, seed)
    exact = result.correct / result.total
    agrees = evaluation.step == end.step and evaluation.accuracy == end.accuracy
    if not agrees or abs(exact - end.accuracy) > 1e-9:
        raise ConfigError(
            [f"{path}: step, accuracy and counts of the last evaluation and the end differ"]
        )
    return result


def _read_text(path: Path) -> str:
    try:
        return text_of(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else f"unreadable ({error})"
        raise ConfigError([f"{path}: {reason}: not a run directory, or not a whole one"]) from None


def _read_json(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    try:
        return json_object(text)
    except ValueError as error:
        raise ConfigError([f"{path}: {error}"]) from None


def _validated(kind: type[M], values: dict[str, Any], path: Path) -> M:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [
            f"{path}: {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        ]
        raise ConfigError(problems) from None
