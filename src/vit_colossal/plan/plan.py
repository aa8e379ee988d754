"""From what was asked to a run that can start: defaults, then every problem at once.

``make_plan`` fills in what depends on the machine and the model, and collects what the plugin, the
degrees, the model and the data cannot honour together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vit_colossal.config.plugins import facts_of
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.plan.channels import channel_notes
from vit_colossal.plan.checkpoint import Checkpoint, Segment
from vit_colossal.plan.default_subject import default_dataset, default_model, ways_on
from vit_colossal.plan.epoch_cut import epoch_cut, order_problems
from vit_colossal.plan.model_spec import ModelSpec, read_spec
from vit_colossal.plan.parallel_dims import BatchPlan, ParallelDims, plan_batches
from vit_colossal.plan.problems import (
    augmentation_problems,
    balance_problems,
    freeze_problems,
    lora_problems,
    model_problems,
    optimizer_problems,
    plugin_problems,
    refuses_fp32,
)
from vit_colossal.plan.recipe import BUILT_IN, TrainingSet, as_built_in, choose, explained
from vit_colossal.plan.stages import layers_of_stages, stage_problems


@dataclass(frozen=True)
class Device:
    """What the run trains on.

    Attributes:
        kind: cuda or cpu.
        bf16: whether a GPU computes in it.
        bf16_unit: of a CPU that multiplies matrices in it, the name of what does.
    """

    kind: str
    bf16: bool = True
    bf16_unit: str | None = None


@dataclass(frozen=True)
class RunPlan:
    """A resolved, validated run.

    Attributes:
        config: with every default filled in.
        device: what it trains on.
        spec: the model's shape.
        dims, batches: how processes and batches are divided.
        notes: what a person should know, one line each.
        checkpoint: where it continues from.
        segments: of a continued run, the settings of each part, this one's last.
    """

    config: TrainConfig
    device: Device
    spec: ModelSpec
    dims: ParallelDims
    batches: BatchPlan
    notes: tuple[str, ...]
    checkpoint: Checkpoint | None = None
    segments: tuple[Segment, ...] = ()

    @property
    def stages(self) -> tuple[int, ...]:
        """Encoder layers of each pipeline stage."""
        return layers_of_stages(self.config, self.spec)

    @property
    def bucket_elements(self) -> int:
        """Gradients, or weights, that replicas send in one transfer under zero1, zero2 and hybrid.

        On a CPU a buffer of 32 MiB or more has fresh pages each time (``runtime.memory``), and
        clearing these costs more than fewer transfers save; smaller ones find room where
        activations were. docs/performance.md has what was measured. Upstream's size elsewhere.
        """
        return (2 if self.device.kind == "cpu" else 12) * 2**20


def make_plan(
    config: TrainConfig,
    world_size: int,
    device: Device,
    found: Sequence[str] = (),
    spec: ModelSpec | None = None,
) -> RunPlan:
    """Resolve defaults and validate.

    Args:
        config: as read from flags and file.
        world_size: number of processes of the run.
        device: what it trains on.
        found: problems that are known already, to be shown with those found here.
        spec: the model's shape where it is known; None reads what ``model`` names.

    Raises:
        ConfigError: all problems found.
    """
    try:
        facts_of(config.plugin)
    except ConfigError as error:
        raise ConfigError([*found, *error.problems]) from None
    found = [*found, *optimizer_problems(config)]
    asked = config
    config, notes = _default_subject(config, device)
    try:
        config = with_image_size(config)
        with ways_on(asked):
            spec = spec or read_spec(config.model or "", config.model_overrides)
    except ConfigError as error:
        found = [*found, *plugin_problems(config, device.kind), *augmentation_problems(config)]
        raise ConfigError([*found, *error.problems]) from None
    notes += [*_interpolation(spec), *_switched_off(spec), *_bf16_advice(config, device)]
    notes += channel_notes(spec.shape.channels, config.auto_augment)
    if spec.family.drop_path is not None:
        rate = spec.drop_path if config.drop_path is None else config.drop_path
        config, spec = config.replace(drop_path=rate), replace(spec, drop_path=rate)
    config = as_built_in(_with_precision(config, device), pretrained=spec.pretrained)
    problems = [*found, *plugin_problems(config, device.kind), *model_problems(config, spec)]
    problems += stage_problems(config, spec)
    plan: BatchPlan | None = None
    try:
        dims = ParallelDims.for_world(world_size, pp=config.pp, tp=config.tp)
        config = _global_batch(config, dims)
        plan = plan_batches(
            config.global_batch_size or 0,
            dims,
            accumulation=config.grad_accumulation,
            num_microbatches=config.num_microbatches,
            microbatch_size=config.microbatch_size,
        )
    except ConfigError as error:
        problems += error.problems
    problems += augmentation_problems(config)
    problems += [*freeze_problems(config, spec), *lora_problems(config, spec)]
    problems += [*order_problems(config), *balance_problems(config)]
    if problems or plan is None:
        raise ConfigError(problems)
    return RunPlan(config, device, spec, dims, plan, tuple(notes))


def check_data(plan: RunPlan, num_train: int, num_eval: int) -> None:
    """Raise ConfigError when the splits are too small for the batch."""
    if num_train < 1:
        raise ConfigError(["the training split is empty: choose another --train-split"])
    if steps_per_epoch(plan.config, num_train) < 1:
        raise ConfigError(
            [
                f"the training split has {num_train} images, fewer than one global batch of "
                f"{plan.batches.global_batch}: use a smaller --global-batch-size or "
                "--last-batch train"
            ]
        )
    if num_eval < 1:
        raise ConfigError(["the evaluation split is empty: choose another --eval-split"])


def total_steps(config: TrainConfig, steps_per_epoch: int) -> int:
    """Optimizer steps of a whole run, which its schedule spans."""
    return config.max_steps or (config.epochs or 1) * steps_per_epoch


def steps_per_epoch(config: TrainConfig, num_train: int) -> int:
    """Optimizer steps of one epoch of a resolved configuration."""
    return epoch_cut(config).steps_per_epoch(num_train)


def draft(config: TrainConfig, device: Device) -> TrainConfig:
    """The configuration to plan with while nobody knows how many images there are.

    A batch that is yet to be chosen stands in it as one that any layout can cut.
    """
    built_in = (config.dataset or default_dataset(device.kind)) in BUILT_IN
    if built_in or config.global_batch_size or config.batch_size:
        return config
    cut = (config.num_microbatches or 1) * (config.microbatch_size or 1) * config.pp
    share = 2 * cut * config.grad_accumulation * (config.order_processes or 1)
    return config.replace(batch_size=share)


def fit_recipe(
    plan: RunPlan, asked: TrainConfig, images: int, labels: int, held_out: float = 0.0
) -> RunPlan:
    """Give what nobody named the values that fit the images, and say why.

    Args:
        plan: the run, as planned before they were counted.
        asked: its configuration before defaults were filled in; what is named there is kept.
        images: of the training split.
        labels: of the data set.
        held_out: the share of its images that was held out of them to evaluate on.

    Returns:
        The plan with those values and a note for each; of a built-in data set as it was, but for a
        batch that its images do not fill.

    Raises:
        ConfigError: the layout cannot cut the batch.
    """
    if plan.config.dataset in BUILT_IN or images < 1:
        return _halved_batch(plan, asked, images)
    data = TrainingSet(images, labels, plan.spec.pretrained, plan.device.kind, held_out)
    choices = choose(asked, data)
    config = asked.replace(**{choice.name: choice.value for choice in choices})
    found = make_plan(config, plan.dims.world_size, plan.device, spec=plan.spec)
    return replace(found, notes=(*found.notes, *explained(choices, data)))


def _halved_batch(plan: RunPlan, asked: TrainConfig, images: int) -> RunPlan:
    """With a default batch halved until the images fill one, where the layout allows it."""
    batch = plan.batches.global_batch
    if asked.global_batch_size or asked.batch_size or not 0 < images < batch:
        return plan
    while batch > images:
        batch //= 2
    try:
        smaller = asked.replace(global_batch_size=batch)
        found = make_plan(smaller, plan.dims.world_size, plan.device, spec=plan.spec)
    except ConfigError:  # the layout needs more: `check_data` says how many images there are
        return plan
    note = f"no --global-batch-size given: {batch}, as there are {images} training images"
    return replace(found, notes=(*found.notes, note))


def _default_subject(config: TrainConfig, device: Device) -> tuple[TrainConfig, list[str]]:
    """The model and data of a run that names none."""
    notes = []
    dataset, model = config.dataset, config.model
    if dataset is None:
        dataset = default_dataset(device.kind)
        notes.append(f"no --dataset given: training on {dataset} ({device.kind} default)")
    if model is None:
        model, note = default_model(dataset, device.kind)
        notes.append(note)
    return config.replace(dataset=dataset, model=model), notes


def with_image_size(config: TrainConfig) -> TrainConfig:
    """One place for the image size, from whichever spelling was used."""
    size, other = config.image_size, config.model_overrides.get("image_size")
    if size is None:
        return config
    if other not in (None, size):
        raise ConfigError(
            [f"--image-size {size} and --model-config image_size={other} differ: give one"]
        )
    overrides = {**config.model_overrides, "image_size": size}
    return config.replace(model_overrides=overrides, image_size=None)


def _interpolation(spec: ModelSpec) -> list[str]:
    if not spec.resized:
        return []
    before, after = (
        f"{size // spec.shape.patch_size} x {size // spec.shape.patch_size}"
        for size in (spec.weights_image_size, spec.image_size)
    )
    sizes = f"image size {spec.image_size}, the weights' is {spec.weights_image_size}"
    if spec.family.sizes == "interpolates":
        return [f"{sizes}: the model interpolates its position embeddings in each forward pass"]
    if spec.family.positions is None:
        return [sizes]
    return [f"{sizes}: position embeddings are interpolated from {before} to {after} patches"]


def _switched_off(spec: ModelSpec) -> list[str]:
    if not spec.switched_off:
        return []
    settings = " and ".join(spec.switched_off)
    return [f"{settings} of the model left out: each process would draw its own in training"]


def _bf16_advice(config: TrainConfig, device: Device) -> list[str]:
    """Where nobody chose a precision, and the other one may be faster."""
    if config.precision or device.bf16_unit is None or refuses_fp32(config):
        return []
    return [
        f"fp32, as no --precision is given; this CPU has {device.bf16_unit}: --precision bf16 is "
        "up to twice as fast here from ViT-tiny on, slower with smaller models, and rounds more"
    ]


def _with_precision(config: TrainConfig, device: Device) -> TrainConfig:
    """The device, and a precision that it and the plugin have."""
    precision = config.precision
    if precision is None:
        if device.kind == "cuda":
            precision = "bf16" if device.bf16 else "fp16"
        else:
            precision = "bf16" if refuses_fp32(config) else "fp32"
    return config.replace(precision=precision, device=device.kind)


def _global_batch(config: TrainConfig, dims: ParallelDims) -> TrainConfig:
    """One number for the global batch, from whichever spelling was used."""
    if config.batch_size is None:
        return config
    if config.global_batch_size is not None:
        raise ConfigError(
            ["--batch-size (per replica) and --global-batch-size exclude each other: give one"]
        )
    return config.replace(global_batch_size=config.batch_size * dims.dp, batch_size=None)
