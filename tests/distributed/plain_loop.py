"""The reference: a single-process PyTorch training loop that shares no code with the package.

Only the order of the samples, the draws of a mixture and the erasing are the package's own
(``epoch_order``, ``Mixing.draw``, ``augment``: they have tests of their own). Model, normalization,
parameter groups, schedule, clipping and mixed precision are written out here from what the
documentation promises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import cross_entropy, one_hot
from transformers import ViTConfig, ViTForImageClassification
from transformers.core_model_loading import revert_weight_conversion

from vit_colossal.data.mixing import Mixing
from vit_colossal.data.order import balanced_order, epoch_order
from vit_colossal.data.transforms import Augmentation, augment

MODEL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
    "initializer_range": 0.02,
}

#: Its true gradient is zero (softmax ignores a constant added to all scores of a query), so that
#: Adam makes steps of full size out of rounding noise: nothing to compare.
KEY_BIAS = "attention.attention.key.bias"

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Images:
    """A decoded split: pixels fp32 [N, 3, H, W] from -1 to 1, labels int64 [N]."""

    pixels: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Recipe:
    """One training run, as the flags of the same names describe it.

    Attributes:
        precision: fp32; ``autocast``: fp32 weights, bf16 products; ``bf16`` and ``fp16``: working
            weights of 16 bits that follow fp32 masters.
        parts: sums the gradients of this many consecutive parts of each global batch.
        skipped: steps (from 0) without an update, as a loss scaler skips them.
        trained_from: 0 trains everything; 1 leaves out the embeddings, 2 the first layer too, ...
        probe: train the classifier alone.
        ema: decay of the weights' average, which is what the run ends with; 0 keeps none.
    """

    steps: int
    lr: float
    adam_eps: float = 1e-8
    weight_decay: float = 0.1
    decay_all: bool = False
    clip_grad_norm: float = 0.0
    warmup_ratio: float = 0.1
    global_batch_size: int = 16
    seed: int = 42
    precision: Literal["fp32", "autocast", "bf16", "fp16"] = "fp32"
    parts: int = 1
    skipped: tuple[int, ...] = ()
    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.0
    erasing: float = 0.0
    layer_decay: float = 1.0
    trained_from: int = 0
    probe: bool = False
    ema: float = 0.0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["cosine", "cosine-restarts", "constant-cooldown"] = "cosine"
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    class_weights: bool = False


@dataclass(frozen=True)
class PlainRun:
    """Losses and gradient norms (before clipping) per step; weights before and after each step."""

    losses: list[float]
    grad_norms: list[float]
    weights: list[Weights]


def read_split(folder: Path, split: str) -> Images:
    """Decode a split of the tests' data set with Pillow and normalize with mean = std = 0.5."""
    import datasets
    from PIL import Image

    file = str(folder / f"{split}.parquet")
    rows = datasets.load_dataset("parquet", data_files={split: file})[split]
    size = (MODEL["image_size"], MODEL["image_size"])
    images = [image.convert("RGB").resize(size, Image.BILINEAR) for image in rows["image"]]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    normal = (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    return Images(normal, torch.tensor(rows["label"]))


def new_model(seed: int, num_labels: int) -> ViTForImageClassification:
    """The model that ``--model-config`` describes, with the weights of a seed."""
    torch.manual_seed(seed)
    return ViTForImageClassification(ViTConfig(**MODEL, num_labels=num_labels))


def train_plain(data: Images, recipe: Recipe, num_labels: int) -> PlainRun:
    """Train one model on one process."""
    master = new_model(recipe.seed, num_labels)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.precision)
    working = master
    if dtype is not None:
        working = new_model(recipe.seed, num_labels).to(dtype)
        master.load_state_dict(working.state_dict())  # ColossalAI's masters start from 16 bits
    _freeze(master, recipe)
    _freeze(working, recipe)
    optimizer = _optimizer(master, recipe)
    losses, norms, weights, average = [], [], [_copy(working)], _copy(master)
    class_weights = _class_weights(data.labels, num_labels) if recipe.class_weights else None
    per_epoch = math.ceil(len(data.labels) / recipe.global_batch_size)
    for step, rows in enumerate(_batches(data.labels, recipe)):
        optimizer.zero_grad()
        working.zero_grad()
        batch = _augmented(data, rows, recipe, *divmod(step, per_epoch), num_labels)
        losses.append(_accumulate(working, *batch, recipe, class_weights))
        if working is not master:
            for ours, theirs in zip(master.parameters(), working.parameters(), strict=True):
                ours.grad = None if theirs.grad is None else theirs.grad.float()
        max_norm = recipe.clip_grad_norm or math.inf
        norms.append(float(torch.nn.utils.clip_grad_norm_(master.parameters(), max_norm)))
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * group["scale"] * rate(step, recipe)
        if step not in recipe.skipped:
            optimizer.step()
        if working is not master:
            with torch.no_grad():
                for ours, theirs in zip(master.parameters(), working.parameters(), strict=True):
                    theirs.copy_(ours)
        weights.append(_copy(working))
        share = min(recipe.ema, (step + 2) / (step + 11))
        for name, tensor in _copy(master).items():
            average[name] = share * average[name] + (1 - share) * tensor
    if recipe.ema:
        dtype = next(working.parameters()).dtype
        weights.append({name: tensor.to(dtype) for name, tensor in average.items()})
    return PlainRun(losses, norms, weights)


def rate(step: int, recipe: Recipe) -> float:
    """The learning rate's factor in the step after ``step`` steps: three cosines, or one, or flat
    until the last fifth of the steps."""
    warmup = math.ceil(recipe.warmup_ratio * recipe.steps)
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / (recipe.steps - warmup)
    if recipe.schedule == "constant-cooldown":
        return min(1.0, (recipe.steps - step) / math.ceil(0.2 * recipe.steps))
    if recipe.schedule == "cosine-restarts":
        progress = 3 * progress % 1
    return 0.5 * (1 + math.cos(math.pi * progress))


def _optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    groups = _groups(model, recipe)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=recipe.lr, eps=recipe.adam_eps)


def evaluate_plain(
    model: ViTForImageClassification, data: Images, count: int, batch: int = 133
) -> dict[str, Any]:
    """Mean loss and number correct over the first ``count`` images; the smallest lead of a
    highest score over the next, below which another order of summation may decide."""
    model.eval()
    dtype = next(model.parameters()).dtype
    parts = data.pixels[:count].split(batch)
    with torch.no_grad():
        scores = torch.cat([model(pixel_values=part.to(dtype)).logits.float() for part in parts])
    labels = data.labels[:count]
    best, second = scores.topk(2).values.unbind(dim=1)
    return {
        "loss": float(cross_entropy(scores.double(), labels)),
        "correct": int((scores.argmax(dim=1) == labels).sum()),
        "total": count,
        "margins": (best - second).tolist(),
        "labels": labels.tolist(),
        "scores": scores.softmax(dim=1).tolist(),
    }


def model_with(weights: Weights, num_labels: int) -> ViTForImageClassification:
    """A plain model that holds these weights in their own type."""
    model = new_model(0, num_labels).to(next(iter(weights.values())).dtype)
    model.load_state_dict({name: weights[file] for name, file in published_names(model).items()})
    return model


def movement(weights: Weights, start: Weights) -> torch.Tensor:
    """Where all weights but the key biases went, as one fp32 vector."""
    names = [name for name in start if not name.endswith(KEY_BIAS)]
    return torch.cat([(weights[name].float() - start[name].float()).flatten() for name in names])


def spread(runs: Sequence[PlainRun]) -> tuple[float, float]:
    """Largest relative distance of a step's loss, and of the whole movement, between any two."""
    steps = zip(*(run.losses for run in runs), strict=True)
    moved = [movement(run.weights[-1], run.weights[0]) for run in runs]
    apart = [float((a - b).norm() / a.norm()) for a in moved for b in moved]
    return max(max(step) / min(step) - 1 for step in steps), max(apart)


def published_names(model: ViTForImageClassification) -> dict[str, str]:
    """For each name in the model, the one that transformers itself writes into files."""
    names = list(model.state_dict())
    marks = {name: torch.tensor(index) for index, name in enumerate(names)}
    written = revert_weight_conversion(model, marks)
    return {names[int(mark)]: name for name, mark in written.items()}


def _copy(model: ViTForImageClassification) -> Weights:
    names = published_names(model)
    return {names[name]: tensor.detach().clone() for name, tensor in model.named_parameters()}


def _groups(model: torch.nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Biases and norms are the vectors among a ViT's parameters."""
    groups = []
    for name, parameter in model.named_parameters():
        decayed = recipe.decay_all or parameter.ndim > 1
        group = {"params": [parameter], "weight_decay": recipe.weight_decay if decayed else 0.0}
        groups.append({**group, "scale": recipe.layer_decay ** (_above(model) - _depth(name))})
    return groups


def _depth(name: str) -> int:
    """0 in the embeddings, 1 in the first layer, ..."""
    if "embeddings" in name:
        return 0
    numbers = [int(part) for part in name.split(".") if part.isdigit()]
    return numbers[0] + 1 if numbers else MODEL["num_hidden_layers"] + 1


def _above(model: ViTForImageClassification) -> int:
    return model.config.num_hidden_layers + 1


def _freeze(model: ViTForImageClassification, recipe: Recipe) -> None:
    for name, parameter in model.named_parameters():
        fixed = _depth(name) < recipe.trained_from
        parameter.requires_grad = not fixed and (name.startswith("classifier") or not recipe.probe)


def _augmented(
    data: Images, rows: torch.Tensor, recipe: Recipe, epoch: int, step: int, num_labels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A global batch: pixels, and labels as probabilities."""
    pixels, labels = data.pixels[rows], one_hot(data.labels[rows], num_labels).float()
    if recipe.erasing:
        options = Augmentation(erasing=recipe.erasing, fill=(128, 128, 128))
        images = ((pixels + 1) * 127.5).round().to(torch.uint8)
        keyed = zip(images, rows.tolist(), strict=True)
        erased = [augment(image, recipe.seed, epoch, row, options) for image, row in keyed]
        pixels = (torch.stack(erased).float() / 255 - 0.5) / 0.5
    if recipe.mixup or recipe.cutmix:
        size = (MODEL["image_size"], MODEL["image_size"])
        draw = Mixing(recipe.mixup, recipe.cutmix).draw(recipe.seed, epoch, step, size)
        mask = torch.full(size, draw.weight)
        if draw.box is not None:
            mask[:], mask[draw.box.top : draw.box.bottom, draw.box.left : draw.box.right] = 1, 0
        pixels = mask * pixels + (1 - mask) * pixels.roll(1, 0)
        labels = draw.weight * labels + (1 - draw.weight) * labels.roll(1, 0)
    return pixels, labels


def _batches(labels: torch.Tensor, recipe: Recipe) -> list[torch.Tensor]:
    """Step s of an epoch takes ``order[s * G : (s + 1) * G]``, the last one what is left."""
    batches: list[torch.Tensor] = []
    epoch = 0
    while len(batches) < recipe.steps:
        if recipe.sampler == "balanced":
            order = balanced_order(labels.numpy(), recipe.seed, epoch)
        else:
            order = epoch_order(len(labels), recipe.seed, epoch)
        batches += order.split(recipe.global_batch_size)
        epoch += 1
    return batches[: recipe.steps]


def _class_weights(labels: torch.Tensor, num_labels: int) -> torch.Tensor:
    """Images over labels that occur times images of the label; 1 for labels without any."""
    counts = torch.bincount(labels, minlength=num_labels).double()
    weights = len(labels) / ((counts > 0).sum() * counts)
    return weights.where(counts > 0, 1.0).float()


def _accumulate(
    model: ViTForImageClassification,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    class_weights: torch.Tensor | None,
) -> float:
    dtype = next(model.parameters()).dtype
    context: AbstractContextManager[Any] = nullcontext()
    if recipe.precision == "autocast":
        context = torch.autocast("cpu", dtype=torch.bfloat16)
    total = 0.0
    for images, soft in zip(pixels.chunk(recipe.parts), labels.chunk(recipe.parts), strict=True):
        with context:
            logits = model(pixel_values=images.to(dtype)).logits
        if class_weights is None:
            loss = cross_entropy(logits.float(), soft, label_smoothing=recipe.smoothing)
            loss = loss * len(images) / len(pixels)
        else:
            mean = torch.nn.CrossEntropyLoss(class_weights, label_smoothing=recipe.smoothing)
            share = class_weights[soft.argmax(1)].sum() / class_weights[labels.argmax(1)].sum()
            loss = mean(logits.float(), soft.argmax(1)) * share
        loss.backward()
        total += loss.item()
    return total
