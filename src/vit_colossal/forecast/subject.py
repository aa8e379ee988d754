"""What a forecast is about: a run as training would plan it, before it is divided."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vit_colossal.config.plugins import BUILT_IN
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.data.prepare import source_request
from vit_colossal.data.sources.source import choose, load
from vit_colossal.errors import ConfigError
from vit_colossal.forecast.outline import Outline, outline
from vit_colossal.plan.plan import Device, RunPlan, draft, fit_recipe, make_plan

#: Labels of the head where nobody names any: ImageNet's.
_LABELS = 1000


@dataclass(frozen=True)
class Subject:
    """A run, its model and what was not given.

    Attributes:
        plan: on one process, with all settings resolved and the batch a global one.
        whole: the model.
        num_labels: of its head.
        notes: where defaults came from.
    """

    plan: RunPlan
    whole: Outline
    num_labels: int
    notes: tuple[str, ...]


def subject(
    asked: TrainConfig, named: set[str], device: Device, world_size: int, num_labels: int | None
) -> Subject:
    """Resolve what training would, without decoding an image.

    Args:
        asked: the settings.
        named: those that a person chose.
        device: what it computes on.
        world_size: processes of the run.
        num_labels: of the head; None counts those of the data set that is named.

    Raises:
        ConfigError: training would refuse them, or the data cannot be read.
    """
    alone = _undivided(asked, named, world_size)
    plan = make_plan(draft(alone, device), 1, device)
    notes, images = [], 0
    if num_labels is None and asked.dataset is not None:
        images, num_labels = _counted(plan.config)
    elif num_labels is None:
        num_labels = _LABELS
        notes = [f"no --dataset and no --num-labels given: a head of {_LABELS} labels"]
    if images:
        plan = fit_recipe(plan, alone, images, num_labels)
    else:
        plan = make_plan(alone, 1, device, spec=plan.spec)
    # The data are counted at most, and nothing is trained on them.
    notes = [*(note for note in plan.notes if not note.startswith("no --dataset given")), *notes]
    kept = {name: getattr(asked, name) for name in (*_DIVIDING, *_of_one_plugin(asked))}
    batch = {"global_batch_size": plan.batches.global_batch, "batch_size": None}
    plan = replace(plan, config=plan.config.replace(**kept, **batch))
    return Subject(plan, outline(plan, num_labels), num_labels, tuple(notes))


def undivided(config: TrainConfig) -> TrainConfig:
    """The same work, with nothing said about how it is divided and computed again."""
    fields = type(config).model_fields
    names = (*_DIVIDING, *_of_one_plugin(config), "grad_checkpoint")
    return config.replace(**{name: fields[name].default for name in names})


#: What divides a run, beside the settings of one plugin.
_DIVIDING = (
    *("plugin", "tp", "pp", "zero", "layers_per_stage", "grad_accumulation"),
    *("num_microbatches", "microbatch_size"),
)


def _undivided(asked: TrainConfig, named: set[str], world_size: int) -> TrainConfig:
    """The same on one process, with the plugin that was named: it may decide on the precision."""
    fields = type(asked).model_fields
    dividing = [*_DIVIDING, *([] if "plugin" in named else _of_one_plugin(asked))]
    if "plugin" in named:
        dividing = [name for name in dividing if name not in ("plugin", "zero")]
    changes = {name: fields[name].default for name in dividing}
    if asked.batch_size is not None and asked.global_batch_size is None:
        replicas = max(1, world_size // (asked.tp * asked.pp))
        changes |= {"global_batch_size": asked.batch_size * replicas, "batch_size": None}
    return asked.replace(**changes)


def _of_one_plugin(config: TrainConfig) -> list[str]:
    """Settings whose names begin with that of a plugin."""
    return [name for name in type(config).model_fields if name.partition("_")[0] in BUILT_IN]


def _counted(config: TrainConfig) -> tuple[int, int]:
    """Training images and labels of a data set."""
    request = source_request(config, keep_test=True)
    loaded = load(request)
    if loaded.streamed:
        raise ConfigError(["a streamed data set is not counted here: add --num-labels N"])
    source = choose(loaded, request)
    return len(source.train), len(source.labels)
