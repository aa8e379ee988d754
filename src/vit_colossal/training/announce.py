"""What a run says about itself before its first step."""

from __future__ import annotations

import logging

from vit_colossal.model.build import flops_per_image
from vit_colossal.model.fused_adamw import FusedAdamW
from vit_colossal.plan.epoch_cut import TrainerCut
from vit_colossal.plan.parallel_dims import bubble
from vit_colossal.strategies.memory_use import StateMemory
from vit_colossal.text import counted, in_millions, printable, shown
from vit_colossal.training.job import Job

logger = logging.getLogger("vit_colossal")

_LABELS_SHOWN = 10


def announce(job: Job, memory: StateMemory) -> None:
    """Log the derived quantities, before the first step."""
    plan, data = job.plan, job.data
    flops = flops_per_image(plan.spec, len(data.labels))
    logger.info(
        "model %s: %s parameters, %.2f GFLOP per image forward and backward",
        plan.config.model,
        in_millions(job.num_parameters),
        flops / 1e9,
    )
    logger.info(
        "data %s: %d training and %d evaluation images, %d labels",
        data.name,
        len(data.train),
        len(data.evaluation),
        len(data.labels),
    )
    for line in data.overview:
        logger.info("%s", line)
    logger.info("labels: %s", _first_labels(data.labels))
    logger.info("images: %s", data.preprocessing)
    layout = f"{plan.config.plugin}, {plan.dims}, {plan.config.precision} on {plan.device.kind}"
    if plan.dims.pp > 1:
        idle = bubble(plan.dims.pp, plan.batches.num_microbatches)
        stages = " + ".join(map(str, plan.stages))
        layout += f", stages of {stages} layers, pipeline idle share {idle:.1%}"
    logger.info("layout: %s", layout)
    logger.info("%s", plan.batches)
    logger.info(
        "%d steps in %d epochs of %d; %s",
        job.total_steps,
        job.epochs,
        job.steps_per_epoch,
        _order(job),
    )
    logger.info("augmentation: %s", _augmentation(job))
    logger.info("training: %s", _training(job))
    if job.reuse.found:
        logger.info("frozen: %s", job.reuse)
    logger.info("kernels: attention %s, optimizer %s", *kernels(job))
    logger.info("memory per rank: %s, and activations and the framework on top", memory)


def _first_labels(labels: tuple[str, ...]) -> str:
    rest = len(labels) - _LABELS_SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    return ", ".join(printable(shown(label)) for label in labels[:_LABELS_SHOWN]) + more


def _order(job: Job) -> str:
    """What becomes of the images that fill no global batch."""
    count, cut = len(job.data.train), job.train_batches.cut
    size = cut.last_step(count)
    last = f"the last has {counted(size, 'image', 'images')}"
    if isinstance(cut, TrainerCut):
        again = cut.repeated(count)
        repeated = f", {again} of them for the second time" if again else ""
        return f"in the order of transformers.Trainer on {cut}: {last}{repeated}"
    if not cut.keeps_last:
        last = f"{count - cut.samples(count)} images sit out each epoch, others each time"
    elif size == cut.global_batch:
        last = "no image sits out"
    if job.train_batches.balanced:
        last += "; drawn with replacement, each label as often as any other"
    return last


def _augmentation(job: Job) -> str:
    """What is done to images and labels, in words."""
    smoothing = job.plan.config.label_smoothing
    drop_path = job.plan.config.drop_path
    paths = f"drop path {drop_path:g}" if drop_path else ""
    labels = f"label smoothing {smoothing:g}" if smoothing else ""
    batches = job.train_batches
    active = [str(batches.augmentation), str(batches.mixing), labels, paths]
    return ", ".join(filter(None, active)) or "none"


def _training(job: Job) -> str:
    """Which weights are trained, and how they become the model."""
    config = job.plan.config
    parts = {f"{in_millions(job.num_trained)} parameters": True}
    if config.lora_rank:
        scale = f"scale {config.lora_scale:g}"
        parts[f"adapters of rank {config.lora_rank}, {scale}, and the classifier"] = True
    parts[f"learning rate x {config.layer_decay} per layer"] = (config.layer_decay or 1) < 1
    parts[f"weights averaged with decay {config.ema}"] = config.ema is not None
    weights = job.train_batches.class_weights
    if weights is not None:
        parts[f"labels weighted from {weights.min():.3g} to {weights.max():.3g}"] = True
    patience = config.early_stopping_patience
    parts[f"stops after {patience} evaluations without gain"] = patience is not None
    return ", ".join(text for text, active in parts.items() if active)


def kernels(job: Job) -> tuple[str, str]:
    """The implementations in use: ColossalAI's own where they load, PyTorch's elsewhere."""
    optimizer = job.engine.strategy.optimizer_kernel(job.plan.device.kind)
    if job.plan.config.optimizer == "sgd":
        optimizer = "SGD (torch)"
    if isinstance(job.engine.torch_optimizer, FusedAdamW):
        optimizer = "AdamW (torch, fused)"
    attention = str(job.model.config._attn_implementation)
    return attention if job.plan.spec.shape.attends else "none", optimizer
