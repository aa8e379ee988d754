"""What settings cannot honour together: each function lists its problems, one line each."""

from __future__ import annotations

from vit_colossal.config.optimizers import OPTIMIZERS
from vit_colossal.config.plugins import BUILT_IN, PLUGIN_WITH_DEGREES, facts_of
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.plan.channels import colour_problem
from vit_colossal.plan.model_spec import ModelSpec
from vit_colossal.plan.recipe import settled


def refuses_fp32(config: TrainConfig) -> bool:
    """Whether the weights are kept in 16 bits only: by the plugin, or by ZeRO among replicas."""
    return facts_of(config.plugin).refuses_fp32 or config.zero > 0


def check_processes(config: TrainConfig, function: str) -> None:
    """Raise ConfigError where a function is asked to start processes, which only commands do."""
    if config.nproc is not None:
        raise ConfigError(
            [
                f"--nproc {config.nproc}: {function}() runs in the process that calls it: "
                f"torchrun --nproc_per_node {config.nproc} starts a script that does"
            ]
        )


def plugin_problems(config: TrainConfig, device: str) -> list[str]:
    """What the plugin cannot honour; ``device`` is cpu or cuda."""
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


def _problems_of_own_settings(config: TrainConfig, device: str) -> list[str]:
    """Of settings that one plugin alone has, whose names begin with its name."""
    problems = []
    fields = type(config).model_fields
    for name in (name for name in fields if name.partition("_")[0] in BUILT_IN):
        value, flag = getattr(config, name), "--" + name.replace("_", "-")
        if value == fields[name].default:
            continue
        if config.plugin != name.partition("_")[0]:
            problems.append(f"{flag} {value} has no effect with --plugin {config.plugin}: drop it")
        elif device == "cpu" and ("offload" in name or value == "auto"):
            problems.append(f"{flag} {value} moves data between GPU and host: not on --device cpu")
        elif config.gemini_placement == "auto" and name.endswith("_frac"):
            problems.append(f"{flag} {value} needs --gemini-placement static")
    return problems


def optimizer_problems(config: TrainConfig) -> list[str]:
    """What the optimizer and the schedule cannot honour, and settings that they do not read."""
    problems, fields = [], type(config).model_fields
    title = OPTIMIZERS[config.optimizer].title
    if config.optimizer != "adamw":
        flag = f"--optimizer {config.optimizer}"
        if facts_of(config.plugin).adamw_only:
            problems.append(f"{flag}: --plugin {config.plugin} has AdamW alone: use another plugin")
        if config.order == "transformers":
            problems.append(f"{flag}: --order transformers updates with Trainer's AdamW: drop one")
        if config.lr is None:
            problems.append(f"{flag} needs --lr: the default rate is AdamW's, not {title}'s")
    others = [
        name
        for kind, facts in OPTIMIZERS.items()
        if kind != config.optimizer
        for name in facts.settings
    ]
    shape = {"lr_cycles": "cosine-restarts", "cooldown_ratio": "constant-cooldown"}
    idle = [(name, f"--optimizer {config.optimizer}") for name in others]
    idle += [
        (name, f"--lr-schedule {config.lr_schedule}")
        for name, schedule in shape.items()
        if schedule != config.lr_schedule
    ]
    for name, choice in idle:
        value = getattr(config, name)
        if value != fields[name].default:
            flag = "--" + name.replace("_", "-")
            problems.append(f"{flag} {value:g} has no effect with {choice}: drop it")
    cools, warmup = config.lr_schedule == "constant-cooldown", settled(config).warmup_ratio or 0
    if cools and warmup + config.cooldown_ratio > 1:
        problems.append(
            f"--warmup-ratio {warmup:g} and --cooldown-ratio "
            f"{config.cooldown_ratio:g} are more than all steps: lower one"
        )
    return problems


def augmentation_problems(config: TrainConfig) -> list[str]:
    """Of a configuration whose global batch is known, where one can be."""
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


def balance_problems(config: TrainConfig) -> list[str]:
    """Two corrections of one imbalance, or of a run that has none."""
    flags = [
        flag
        for flag, value in (
            ("--class-weights balanced", config.class_weights),
            ("--sampler balanced", config.sampler),
        )
        if value == "balanced"
    ]
    if len(flags) == 2:
        return [f"{' and '.join(flags)} correct the same imbalance twice: choose one"]
    if flags and config.order is not None:
        return [f"{flags[0]} is nothing that Trainer does: drop it or --order"]
    return []


def freeze_problems(config: TrainConfig, spec: ModelSpec) -> list[str]:
    """Frozen layers that are not there, or settings that freezing makes idle."""
    problems = []
    if config.freeze_layers is not None:
        if config.freeze is not None:
            problems.append("--freeze backbone freezes all layers: drop --freeze-layers")
        elif config.freeze_layers > spec.shape.num_layers:
            problems.append(
                f"--freeze-layers {config.freeze_layers}: {spec.name} has {spec.shape.num_layers} "
                "encoder layers; --freeze backbone leaves the head alone"
            )
    if config.freeze is not None and (config.layer_decay or 1) < 1:
        problems.append("--layer-decay has no effect with --freeze backbone: drop it")
    return problems


def lora_problems(config: TrainConfig, spec: ModelSpec) -> list[str]:
    """Adapters that nothing can be adapted with, and settings that they make idle."""
    if config.lora_rank is None:
        alone = f"--lora-alpha {config.lora_alpha} has no effect without --lora-rank: add it"
        return [] if config.lora_alpha is None else [alone]
    flag, problems = f"--lora-rank {config.lora_rank}", list[str]()
    if not spec.pretrained:
        problems.append(
            f"{flag}: {spec.name} starts from random weights, which adapters would keep: name a "
            "pretrained --model, or drop the flag"
        )
    if config.lora_rank > spec.shape.hidden_size:
        problems.append(
            f"{flag}: the layers of {spec.name} are {spec.shape.hidden_size} wide: use that or less"
        )
    frozen = {"freeze backbone": config.freeze, "freeze-layers": config.freeze_layers}
    problems += [
        f"{flag} trains adapters in every block and the head, and nothing else: drop --{name}"
        for name, value in frozen.items()
        if value is not None
    ]
    if config.tp > 1:
        others = ", ".join(name for name, facts in BUILT_IN.items() if not facts.has_degrees)
        problems.append(
            f"{flag}: --tp {config.tp} replaces the layers beside which adapters stand: use --pp, "
            f"or --plugin with one of {others}"
        )
    return problems


def model_problems(config: TrainConfig, spec: ModelSpec) -> list[str]:
    """Degrees that do not divide the model, and what its family cannot do."""
    row, shape, problems = spec.family, spec.shape, list[str]()
    if config.grad_checkpoint and not row.checkpoints_layers:
        problems.append(
            f"--grad-checkpoint: transformers cannot compute a {row.title}'s layers again: drop it"
        )
    if facts_of(config.plugin).frees_weights and not shape.attends:
        problems.append(
            f"--plugin {config.plugin}: crashes in the backward pass of a {row.title}'s "
            "convolutions: use another plugin"
        )
    if config.drop_path is not None and row.drop_path is None:
        problems.append(
            f"--drop-path {config.drop_path:g}: transformers' {row.title} drops no paths: drop it"
        )
    if problem := colour_problem(shape.channels, config.auto_augment):
        problems.append(problem)
    if config.compile and config.drop_path:
        problems.append(f"--compile fails with --drop-path {config.drop_path:g}: use --drop-path 0")
    if row.encoder is None and (config.tp > 1 or config.pp > 1):
        others = ", ".join(name for name, facts in BUILT_IN.items() if not facts.has_degrees)
        return problems + [
            f"--{flag} {degree}: a {row.title} is not cut, as {row.why_whole}: use --plugin with "
            f"one of {others}"
            for flag, degree in (("tp", config.tp), ("pp", config.pp))
            if degree > 1
        ]
    if shape.num_heads % config.tp:
        problems.append(
            f"{spec.name} has {shape.num_heads} attention heads, not divisible by --tp {config.tp}"
        )
    if shape.intermediate_size % config.tp:
        problems.append(
            f"{spec.name}: intermediate size {shape.intermediate_size} is not divisible "
            f"by --tp {config.tp}"
        )
    if shape.num_layers < config.pp:
        problems.append(
            f"--pp {config.pp} stages for the {shape.num_layers} encoder layers of {spec.name}: "
            f"use --pp {shape.num_layers} or less"
        )
    return problems
