"""From what was asked to a run that can start: defaults, then every problem at once.

``make_plan`` fills in what depends on the machine and the model, and collects what the plugin, the
degrees, the model and the data cannot honour together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vit_colossal.config.plugins import BUILT_IN, PLUGIN_WITH_DEGREES, facts_of
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.plan.checkpoint import Checkpoint
from vit_colossal.plan.model_spec import ModelSpec, read_spec
from vit_colossal.plan.parallel_dims import BatchPlan, ParallelDims, plan_batches


@dataclass(frozen=True)
class Device:
    """What the run trains on: ``kind`` is cuda or cpu; ``bf16`` whether it computes in it."""

    kind: str
    bf16: bool = True


@dataclass(frozen=True)
class RunPlan:
    """A resolved, validated run; ``checkpoint`` is where it continues from."""

    config: TrainConfig
    device: Device
    spec: ModelSpec
    dims: ParallelDims
    batches: BatchPlan
    notes: tuple[str, ...]
    checkpoint: Checkpoint | None = None


def make_plan(
    config: TrainConfig, world_size: int, device: Device, found: Sequence[str] = ()
) -> RunPlan:
    """Resolve defaults and validate.

    Args:
        config: as read from flags and file.
        world_size: number of processes of the run.
        device: what it trains on.
        found: problems that are known already, to be shown with those found here.

    Raises:
        ConfigError: all problems found.
    """
    try:
        facts_of(config.plugin)
    except ConfigError as error:
        raise ConfigError([*found, *error.problems]) from None
    config, notes = _default_subject(config, device)
    try:
        spec = read_spec(config.model or "", config.model_overrides)
    except ConfigError as error:
        raise ConfigError([*found, *_plugin_problems(config, device), *error.problems]) from None
    config = _default_recipe(config, spec, device)
    problems = [*found, *_plugin_problems(config, device), *_model_problems(config, spec)]
    problems += [*_augmentation_problems(config), *_freeze_problems(config, spec)]
    plan: BatchPlan | None = None
    try:
        dims = ParallelDims.for_world(world_size, pp=config.pp, tp=config.tp)
        config = _global_batch(config, spec, dims)
        plan = plan_batches(
            config.global_batch_size or 0,
            dims,
            accumulation=config.grad_accumulation,
            num_microbatches=config.num_microbatches,
            microbatch_size=config.microbatch_size,
        )
    except ConfigError as error:
        problems += error.problems
    if problems or plan is None:
        raise ConfigError(problems)
    return RunPlan(config, device, spec, dims, plan, tuple(notes))


def check_data(plan: RunPlan, num_train: int, num_eval: int) -> None:
    """Raise ConfigError when the splits are too small for the batch."""
    if num_train < plan.batches.global_batch:
        raise ConfigError(
            [
                f"the training split has {num_train} images, fewer than one global batch of "
                f"{plan.batches.global_batch}: use a smaller --global-batch-size"
            ]
        )
    if num_eval < 1:
        raise ConfigError(["the evaluation split is empty: choose another --eval-split"])


def fit_batch(plan: RunPlan, asked: TrainConfig, num_train: int) -> RunPlan:
    """Halve the default global batch until the training images fill one.

    Args:
        plan: the run.
        asked: its configuration before defaults were filled in; a batch named there is kept.
        num_train: training images.

    Returns:
        The plan with a smaller batch and a note; as it was, if that is not needed or possible.
    """
    batch = plan.batches.global_batch
    if asked.global_batch_size or asked.batch_size or not 0 < num_train < batch:
        return plan
    while batch > num_train:
        batch //= 2
    try:
        smaller = asked.replace(global_batch_size=batch)
        found = make_plan(smaller, plan.dims.world_size, plan.device)
    except ConfigError:  # the layout needs more: `check_data` says how many images there are
        return plan
    note = f"no --global-batch-size given: {batch}, as there are {num_train} training images"
    return replace(found, notes=(*found.notes, note))


def _default_subject(config: TrainConfig, device: Device) -> tuple[TrainConfig, list[str]]:
    """The model and data of a run that names none."""
    notes = []
    dataset, model = config.dataset, config.model
    if dataset is None:
        dataset = "beans" if device.kind == "cuda" else "digits"
        notes.append(f"no --dataset given: training on {dataset} ({device.kind} default)")
    if model is None:
        small = dataset == "digits" or device.kind == "cpu"
        model = "vit-micro" if small else "google/vit-base-patch16-224"
        origin = "from scratch" if small else "pretrained"
        if small and dataset != "digits":
            origin += ", to try things out; for photos: --model google/vit-base-patch16-224"
        notes.append(f"no --model given: {model} {origin}")
    return config.replace(dataset=dataset, model=model), notes


def _default_recipe(config: TrainConfig, spec: ModelSpec, device: Device) -> TrainConfig:
    """Precision, epochs and learning rate, where not given."""
    precision = config.precision
    if precision is None:
        if device.kind == "cuda":
            precision = "bf16" if device.bf16 else "fp16"
        else:
            precision = "bf16" if refuses_fp32(config) else "fp32"
    epochs = config.epochs or (3 if spec.pretrained else 20)
    lr = config.lr if config.lr is not None else (2e-4 if spec.pretrained else 1e-3)
    return config.replace(precision=precision, epochs=epochs, lr=lr, device=device.kind)


def _global_batch(config: TrainConfig, spec: ModelSpec, dims: ParallelDims) -> TrainConfig:
    """One number for the global batch, from whichever spelling was used."""
    if config.batch_size is not None:
        if config.global_batch_size is not None:
            raise ConfigError(
                ["--batch-size (per replica) and --global-batch-size exclude each other: give one"]
            )
        return config.replace(global_batch_size=config.batch_size * dims.dp, batch_size=None)
    default = 16 if spec.pretrained else 64
    return config.replace(global_batch_size=config.global_batch_size or default)


def refuses_fp32(config: TrainConfig) -> bool:
    """Whether the weights are kept in 16 bits only: by the plugin, or by ZeRO among replicas."""
    return facts_of(config.plugin).refuses_fp32 or config.zero > 0


def _plugin_problems(config: TrainConfig, device: Device) -> list[str]:
    problems, facts = [], facts_of(config.plugin)
    if not facts.has_degrees:
        for flag, value, neutral in (
            ("tp", config.tp, 1),
            ("pp", config.pp, 1),
            ("zero", config.zero, 0),
        ):
            if value != neutral:
                problems.append(
                    f"--{flag} {value} has no effect with --plugin {config.plugin}: "
                    f"use --plugin {PLUGIN_WITH_DEGREES} or drop --{flag}"
                )
    if facts.has_degrees and config.zero == 2:
        problems.append("--zero 2 does not go with pipelines: use --zero 1, or --plugin zero2")
    if config.pp == 1:
        for name in ("num_microbatches", "microbatch_size"):
            if getattr(config, name) is not None:
                flag = "--" + name.replace("_", "-")
                problems.append(f"{flag} needs a pipeline: use --pp 2 or --grad-accumulation")
    if config.precision == "fp32" and refuses_fp32(config):
        zero = "" if facts.refuses_fp32 else f" --zero {config.zero}"
        problems.append(
            f"--plugin {config.plugin}{zero} refuses --precision fp32: use bf16 or fp16"
        )
    if config.compile and (not facts.compiles or config.tp > 1):
        what = f"--tp {config.tp}" if facts.compiles else f"--plugin {config.plugin}"
        problems.append(f"--compile fails with {what}, which replaces what it compiles: drop it")
    return problems + _problems_of_own_settings(config, device)


def _problems_of_own_settings(config: TrainConfig, device: Device) -> list[str]:
    """Of settings that one plugin alone has, whose names begin with its name."""
    problems = []
    fields = type(config).model_fields
    for name in (name for name in fields if name.partition("_")[0] in BUILT_IN):
        value, flag = getattr(config, name), "--" + name.replace("_", "-")
        if value == fields[name].default:
            continue
        if config.plugin != name.partition("_")[0]:
            problems.append(f"{flag} {value} has no effect with --plugin {config.plugin}: drop it")
        elif device.kind == "cpu" and ("offload" in name or value == "auto"):
            problems.append(f"{flag} {value} moves data between GPU and host: not on --device cpu")
        elif config.gemini_placement == "auto" and name.endswith("_frac"):
            problems.append(f"{flag} {value} needs --gemini-placement static")
    return problems


def _augmentation_problems(config: TrainConfig) -> list[str]:
    problems = []
    for name in ("randaugment_num_ops", "randaugment_magnitude"):
        if getattr(config, name) is not None and config.auto_augment != "randaugment":
            flag = "--" + name.replace("_", "-")
            problems.append(f"{flag} has no effect without --auto-augment randaugment: add it")
    if config.mixup or config.cutmix:
        names = " and ".join(f"--{name}" for name in ("mixup", "cutmix") if getattr(config, name))
        if config.global_batch_size == 1:
            problems.append(f"{names} needs two samples to mix: --global-batch-size 2 or more")
    return problems


def _freeze_problems(config: TrainConfig, spec: ModelSpec) -> list[str]:
    problems = []
    if config.freeze_layers is not None:
        if config.freeze is not None:
            problems.append("--freeze backbone freezes all layers: drop --freeze-layers")
        elif config.freeze_layers > spec.num_layers:
            problems.append(
                f"--freeze-layers {config.freeze_layers}: {spec.name} has {spec.num_layers} "
                "encoder layers; --freeze backbone leaves the head alone"
            )
    if config.freeze is not None and (config.layer_decay or 1) < 1:
        problems.append("--layer-decay has no effect with --freeze backbone: drop it")
    return problems


def _model_problems(config: TrainConfig, spec: ModelSpec) -> list[str]:
    problems = []
    if spec.num_heads % config.tp:
        problems.append(
            f"{spec.name} has {spec.num_heads} attention heads, not divisible by --tp {config.tp}"
        )
    if spec.intermediate_size % config.tp:
        problems.append(
            f"{spec.name}: intermediate size {spec.intermediate_size} is not divisible "
            f"by --tp {config.tp}"
        )
    if spec.num_layers < config.pp:
        problems.append(
            f"--pp {config.pp} stages for the {spec.num_layers} encoder layers of {spec.name}: "
            f"use --pp {spec.num_layers} or less"
        )
    return problems
