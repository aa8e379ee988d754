"""What a run goes on from: the run that a checkpoint lies in, and where the two differ."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vit_colossal.checkpoints.files import differences
from vit_colossal.checkpoints.resume import find_checkpoint, identity, wants_resume
from vit_colossal.config.settings.strategy import StrategySettings
from vit_colossal.config.train_config import CUTS, TrainConfig
from vit_colossal.data.prepare import RunData
from vit_colossal.errors import ConfigError
from vit_colossal.model.configuration import configuration_of
from vit_colossal.model.optim import rate_after
from vit_colossal.model.processor import build_processor
from vit_colossal.plan import run_folder
from vit_colossal.plan.checkpoint import Checkpoint, Segment
from vit_colossal.plan.model_spec import PRESETS, ModelSpec, read_spec
from vit_colossal.plan.plan import RunPlan, steps_per_epoch, total_steps, with_image_size
from vit_colossal.plan.recipe import BUILT_IN, CHOSEN
from vit_colossal.rundir.data_record import (
    DataRecord,
    data_differences,
    describe_data,
    has_data_record,
    is_there,
    read_data_record,
)
from vit_colossal.rundir.finished import read_run_config
from vit_colossal.rundir.segments import Change, changes, read_segments, settings_of, until

#: Keys of a model's files that change nothing of what it computes.
_WRITTEN_BY_WHOM = (
    *("image_processor_type", "architectures", "transformers_version", "dtype", "_name_or_path"),
)
_LAYOUT = (*StrategySettings.model_fields, *CUTS)


@dataclass(frozen=True)
class Origin:
    """What a run goes on from.

    Attributes:
        checkpoint: verified.
        run_dir: the run that it lies in; it may be another, or be gone but for the checkpoint.
        segments: what the checkpoint's steps were trained with; empty where nobody wrote it down.
        data: of that run; None likewise.
    """

    checkpoint: Checkpoint
    run_dir: Path
    segments: tuple[Segment, ...]
    data: DataRecord | None

    @property
    def base(self) -> Path:
        """The folder with the configuration and the processor of the run's model."""
        return self.run_dir / run_folder.BASE


def find_origin(config: TrainConfig, *, report: bool) -> Origin | None:
    """What ``--resume`` means; None to start from the beginning.

    Args:
        config: the run.
        report: log which checkpoints were passed over.

    Raises:
        ConfigError: there is nothing to go on from, or it is damaged.
    """
    checkpoint = find_checkpoint(config, report=report)
    if checkpoint is None:
        return None
    run_dir = checkpoint.path.parent.parent
    if not (run_dir / run_folder.CONFIG).is_file():
        return Origin(checkpoint, run_dir, (), None)
    segments = until(read_segments(run_dir), checkpoint.step)
    data = read_data_record(run_dir) if has_data_record(run_dir) else None
    return Origin(checkpoint, run_dir, segments, data)


def own_spec(config: TrainConfig, origin: Origin) -> ModelSpec | None:
    """The shape of the run's own model, where the configuration names that.

    All weights lie in the checkpoint, so what training once began with may be gone or changed.
    None for a preset, of which nothing can be gone, and for another model.

    Raises:
        ConfigError: the run's files are damaged.
    """
    preset = config.model in PRESETS and not Path(config.model).is_dir()
    if config.model is None or preset or not (origin.base / "config.json").is_file():
        return None
    run = read_run_config(origin.run_dir)
    # Not what config.yaml says: people edit it.
    trained = origin.segments[-1].settings if origin.segments else {}
    if config.model != trained.get("model", run.model):
        return None
    spec = read_spec(str(origin.base), {}, weights=False)
    asked, own = (with_image_size(one).model_overrides for one in (config, run))
    return spec if asked in (own, {"image_size": spec.image_size}) else None


def own_last_batch(config: TrainConfig, origin: Origin) -> TrainConfig:
    """The configuration with what the run does with its last batches, where that is not given."""
    if config.last_batch is not None or config.order is not None:
        return config
    trains = origin.checkpoint.identity.get("last batch") is not None
    return config.replace(last_batch="train" if trains else "drop")


def as_chosen_there(config: TrainConfig, origin: Origin) -> TrainConfig:
    """The configuration with the run's own model and recipe, where it names neither.

    They were chosen to fit its images and its device, and may be chosen otherwise here.
    """
    before = origin.segments[-1].settings if origin.segments else {}
    if config.dataset in (None, *BUILT_IN):
        return config
    names = ("model", *CHOSEN) if not config.model_overrides else CHOSEN
    kept = {name: before[name] for name in names if name in before}
    kept = {name: value for name, value in kept.items() if getattr(config, name) is None}
    if "model" in kept:
        kept["model_overrides"] = before.get("model_config", {})
    if config.batch_size is not None:
        kept.pop("global_batch_size", None)
    return config.replace(**kept)


def where_data_lie(config: TrainConfig, origin: Origin) -> tuple[TrainConfig, list[str]]:
    """The configuration with the place of the run's data, and what to say about it.

    A relative name is looked for here; where nothing is here, at its place when the run began.

    Raises:
        ConfigError: it is at neither.
    """
    record = origin.data
    if record is None or record.path is None or config.dataset != record.dataset:
        return config, []
    if is_there(record.dataset):
        return config, []
    if not is_there(record.path):
        problem = (
            f"--dataset {record.dataset}: neither here nor at {record.path}, where the run began"
        )
        raise ConfigError([f"{problem}: name where it is now"])
    note = f"--dataset {record.dataset} is not here: taking {record.path}, where the run began"
    return config.replace(dataset=record.path), [note]


def continued(plan: RunPlan, data: RunData, origin: Origin) -> RunPlan:
    """The plan that goes on from there, with a note for each difference.

    Args:
        plan: the validated run.
        data: its data.
        origin: what it goes on from.

    Raises:
        ConfigError: that belongs to another run, or has more steps than this one is to have.
    """
    now = settings_of(plan.config.dump())
    before = origin.segments[-1].settings if origin.segments else now
    found = changes(before, now)
    _refuse_another_run(plan, data, origin, found)
    plan, told = _of_its_model(plan, before)
    now = settings_of(plan.config.dump())
    found = changes(before, now)
    step, per_epoch = origin.checkpoint.step, steps_per_epoch(plan.config, len(data.train))
    total = total_steps(plan.config, per_epoch)
    if total < step:
        raise ConfigError([_too_few(plan.config, origin, per_epoch)])
    if total == step:
        notes = _nothing_left(step, found)
        segments = origin.segments or (Segment(0, now),)
    else:
        notes = _told(found, _schedule_change(plan.config, before, step, per_epoch))
        segments = origin.segments
        if found or not segments:
            segments = (*segments, Segment(step, now))
    notes = [*plan.notes, *told, *notes]
    return replace(plan, checkpoint=origin.checkpoint, segments=segments, notes=tuple(notes))


def _of_its_model(plan: RunPlan, before: dict[str, Any]) -> tuple[RunPlan, list[str]]:
    """The plan of a run of the model that it began with, which another name does not change."""
    model, asked = before.get("model"), plan.config.model
    if model in (None, asked):
        return plan, []
    note = (
        f"--model {asked} is not read, as all weights lie in the checkpoint: this stays the run of "
        f"{model}; to begin with another model, name another --output-dir, without --resume"
    )
    return replace(plan, config=plan.config.replace(model=model)), [note]


def _refuse_another_run(plan: RunPlan, data: RunData, origin: Origin, found: list[Change]) -> None:
    """Raise ConfigError where going on would silently train something else."""
    head = f"--resume {wants_resume(plan.config)}: {origin.checkpoint.path} belongs to another run"
    wrong = differences(origin.checkpoint.identity, identity(plan, data))
    problems = [f"{head}: {line}" for line in wrong]
    if origin.data is not None and origin.data.fingerprint != data.fingerprint:
        details = data_differences(origin.data, describe_data(plan.config, data))
        place = origin.data.path or origin.data.dataset
        problems.append(f"the run's data were {place}; --dataset {plan.config.dataset}: {details}")
    if not any(line.startswith("model.") for line in wrong):
        problems += _other_model(plan, data, origin)
    if not problems:
        return
    if found:
        problems.append(f"settings that differ from the run's: {', '.join(map(str, found))}")
    config = origin.run_dir / run_folder.CONFIG
    if config.is_file():
        problems.append(
            f"to go on with that run, give its settings (--config {config}); to train another, "
            "name another --output-dir"
        )
    raise ConfigError(problems)


def _other_model(plan: RunPlan, data: RunData, origin: Origin) -> list[str]:
    """Another model of the same shape may compute, or prepare images, in another way."""
    if plan.spec.name == str(origin.base):
        return []
    own, problems = replace(plan.spec, name=str(origin.base), pretrained=True), []
    if (origin.base / "config.json").is_file():
        own = replace(own, overrides={})
        values = [configuration_of(spec, data.labels).to_dict() for spec in (own, plan.spec)]
        problems += _differing(plan, "configuration", *values)
    if (origin.base / "preprocessor_config.json").is_file():
        values = [build_processor(spec).to_dict() for spec in (own, plan.spec)]
        problems += _differing(plan, "image processor", *values)
    return problems


def _differing(plan: RunPlan, what: str, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    names = [n for n in before if n not in _WRITTEN_BY_WHOM and before[n] != now.get(n)]
    if not names:
        return []
    values = "; ".join(f"{name}: {before[name]} in the run, {now.get(name)} here" for name in names)
    return [f"--model {plan.config.model}: its {what} is not the run's: {values}"]


def _too_few(config: TrainConfig, origin: Origin, per_epoch: int) -> str:
    step = origin.checkpoint.step
    if config.max_steps is not None:
        asked, enough = f"--max-steps {config.max_steps}", f"--max-steps {step}"
    else:
        asked = f"--epochs {config.epochs} ({total_steps(config, per_epoch)} steps)"
        enough = f"--epochs {math.ceil(step / per_epoch)}"
    return (
        f"{asked} is less than was trained: {origin.checkpoint.path} has {step} steps "
        f"({step / per_epoch:.3g} epochs): give {enough} or more, or --overwrite without "
        "--resume to begin anew"
    )


def _nothing_left(step: int, found: list[Change]) -> list[str]:
    notes = [f"nothing is left to train: all {step} steps are done; raise --epochs to go on"]
    changed = [change for change in found if change.decisive]
    if changed:
        notes.append(f"without effect, as nothing is trained: {_listed(changed)}")
    return notes


def _told(found: list[Change], schedule: str) -> list[str]:
    """One line for each kind of difference."""
    decisive = [change for change in found if change.decisive]
    layout = [change for change in found if not change.decisive and change.name in _LAYOUT]
    rest = [change for change in found if not change.decisive and change.name not in _LAYOUT]
    notes = []
    if decisive:
        notes.append(
            f"resuming with {_listed(decisive)}: settings changed, so this is no longer the same "
            "run; what each part was trained with is kept in segments.jsonl"
        )
    notes += [schedule] if schedule else []
    if layout:
        notes.append(f"resuming with {_listed(layout)}: another layout, the same run")
    if rest:
        notes.append(f"resuming with {_listed(rest)}: the steps are the same")
    return notes


def _schedule_change(config: TrainConfig, before: dict[str, Any], step: int, per_epoch: int) -> str:
    """What becomes of the learning rate, which is a function of the step and the total."""
    length = {name: before.get(name) for name in ("epochs", "max_steps")}
    shape = {n: before[n] for n in ("lr", "lr_schedule", "warmup_ratio") if n in before}
    earlier = config.replace(**length, **shape)
    old_total, total = (total_steps(one, per_epoch) for one in (earlier, config))
    old, new = rate_after(step, earlier, old_total), rate_after(step, config, total)
    if old_total == total and math.isclose(old, new, rel_tol=1e-9):
        return ""
    instead = f" instead of {old_total}" if old_total != total else ""
    return (
        f"the learning rate's schedule ({config.lr_schedule}) now spans {total} steps{instead}: "
        f"after step {step} it goes on at {new:.3g}, where the earlier one was at {old:.3g}"
    )


def _listed(found: list[Change]) -> str:
    return ", ".join(map(str, found))
