"""What a run directory says about its run: read strictly, for a judgement rests on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from vit_colossal.config import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.references import Result, RunLayout, Value

#: The settings that may move an accuracy; layout, model and data are kept apart.
HYPERPARAMETERS = (
    *("global_batch_size", "grad_accumulation", "epochs", "max_steps", "lr", "lr_schedule"),
    *("warmup_ratio", "weight_decay", "decay_all", "adam_beta1", "adam_beta2", "adam_eps"),
    *("clip_grad_norm", "random_resized_crop", "min_crop_scale", "horizontal_flip"),
    *("max_train_samples", "precision"),
)
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
    """A run that ended, and its last evaluation."""

    directory: Path
    subject: Subject
    layout: RunLayout
    settings: dict[str, Value]
    result: Result
    commit: str | None
    versions: dict[str, str]


class _Environment(BaseModel):
    """What is needed of environment.json."""

    dataset: str
    eval_split: str
    data_fingerprint: str = Field(min_length=1)
    labels: tuple[str, ...] = Field(min_length=1)
    world_size: int = Field(ge=1)
    commit: str | None = None
    plain_loop: bool = False


class _Evaluation(BaseModel):
    """What is needed of an "eval" event."""

    step: int
    accuracy: float
    correct: int
    total: int


class _End(BaseModel):
    """What is needed of an "end" event."""

    step: int
    accuracy: float


def read_run(directory: Path) -> FinishedRun:
    """Read a finished run.

    Args:
        directory: holds config.yaml, environment.json and metrics.jsonl.

    Raises:
        ConfigError: something is missing, unreadable or contradictory, or the run has not ended.
    """
    if not directory.is_dir():
        raise ConfigError([f"{directory}: no such run directory"])
    config = _read_config(directory / "config.yaml")
    values = _read_json(directory / "environment.json")
    environment = _validated(_Environment, values, directory / "environment.json")
    result = _last_evaluation(directory / "metrics.jsonl", config.seed)
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
    return FinishedRun(directory, subject, layout, settings, result, environment.commit, versions)


def hyperparameters(config: TrainConfig) -> dict[str, Value]:
    """The settings that a reference records, without those that are not set."""
    values = {name: getattr(config, name) for name in HYPERPARAMETERS}
    return {name: value for name, value in values.items() if value is not None}


def _read_config(path: Path) -> TrainConfig:
    try:
        values = yaml.safe_load(_read_text(path))
        return TrainConfig.model_validate(values)
    except (yaml.YAMLError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError([f"{path}: not the configuration of a run ({reason})"]) from None


def _last_evaluation(path: Path, seed: int) -> Result:
    """The last "eval" event, if an "end" event after it says that it is the result."""
    events: list[dict[str, Any]] = []
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            raise ConfigError(
                [f"{path}: line {number} is not JSON: was the run cut off?"]
            ) from None
        events += [event] if isinstance(event, dict) else []
    kinds = [event.get("event") for event in events]
    last = {kind: len(kinds) - 1 - kinds[::-1].index(kind) for kind in set(kinds)}
    if "end" not in last or last["end"] < max(last.get("train", 0), last.get("eval", 0)):
        raise ConfigError([f'{path}: no "end" event: the run has not finished'])
    if "eval" not in last:
        raise ConfigError([f'{path}: no "eval" event: the run was never evaluated'])
    evaluation = _validated(_Evaluation, events[last["eval"]], path)
    end = _validated(_End, events[last["end"]], path)
    try:
        result = Result(seed=seed, correct=evaluation.correct, total=evaluation.total)
    except ValidationError:
        counts = f"{evaluation.correct} of {evaluation.total}"
        raise ConfigError([f"{path}: the last evaluation counts {counts} images"]) from None
    exact = result.correct / result.total
    agrees = evaluation.step == end.step and evaluation.accuracy == end.accuracy
    if not agrees or abs(exact - end.accuracy) > 1e-9:
        raise ConfigError(
            [f"{path}: step, accuracy and counts of the last evaluation and the end differ"]
        )
    return result


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else f"unreadable ({error})"
        raise ConfigError([f"{path}: {reason}: not a run directory, or not a whole one"]) from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ConfigError([f"{path}: not JSON ({error})"]) from None
    if not isinstance(values, dict):
        raise ConfigError([f"{path}: expected names and values"])
    return values


def _validated(kind: type[M], values: dict[str, Any], path: Path) -> M:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [
            f"{path}: {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        ]
        raise ConfigError(problems) from None
