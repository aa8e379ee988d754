"""The recipe of a run: what nobody named, as built-in data have it, or as it fits people's photos.

A choice that fits follows from the number of training images and labels, from whether the weights
are pretrained, and from the device; never from the plugin, the degrees or the number of processes,
as those may not change a result. docs/training.md has the same rules as a table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vit_colossal.config.train_config import TrainConfig

#: Data sets that the recorded numbers are of, with a recipe that looks at nothing but the weights.
BUILT_IN = ("digits", "synthetic")
#: Smallest area of a random crop, as a share of the image.
MIN_CROP_SCALE = 0.08

#: What is chosen, and kept by a run that is continued.
CHOSEN = (
    "val_split",
    *("global_batch_size", "freeze", "lr", "warmup_ratio", "epochs"),
    *("random_resized_crop", "min_crop_scale"),
)

#: Settings that belong to training the whole model, in a way that somebody has thought of.
_OF_THE_WHOLE_MODEL = (*("lr", "order", "layer_decay", "freeze_layers", "drop_path", "lora_rank"),)
#: Settings that change images at random: then what is frozen is computed in each epoch.
_RANDOM = (
    *("random_resized_crop", "horizontal_flip", "auto_augment", "random_erasing"),
    *("mixup", "cutmix"),
)
_SMALLEST_BATCH, _LARGEST_BATCH = 8, 64
_WARM_UP = 0.1
_PRETRAINED_LR, _SCRATCH_LR = 2e-4, 1e-3
#: For a new head on fixed features: a rule of thumb, not measured on photos.
_HEAD_LR = 3e-3
#: For adapters, which begin at zero: a rule of thumb likewise.
_LORA_LR = 1e-3
#: Instead of MIN_CROP_SCALE, where crops were not asked for.
_LARGE_CROP_SCALE = 0.5

#: The share of the images that is held out where they are many, and the most where they are few.
LEAST_HELD_OUT, _MOST_HELD_OUT = 0.1, 0.2
#: Images to evaluate on that a larger share is to bring: in all, and for each label.
_ENOUGH_HELD_OUT, _ENOUGH_OF_A_LABEL = 50, 5

#: How switches act where nobody set them and nothing chose them to fit the images.
_UNSET = {
    "warmup_ratio": _WARM_UP,
    "random_resized_crop": False,
    "min_crop_scale": MIN_CROP_SCALE,
}


@dataclass(frozen=True)
class TrainingSet:
    """What a recipe has to fit.

    Attributes:
        images, labels: of the training split.
        pretrained: the weights come from a directory or the hub.
        device: cpu or cuda.
        held_out: the share of its images that was held out to evaluate on, if any was.
    """

    images: int
    labels: int
    pretrained: bool
    device: str
    held_out: float = 0.0


@dataclass(frozen=True)
class Choice:
    """One setting, its value and why."""

    name: str
    value: Any
    reason: str

    def __str__(self) -> str:
        flag = self.name.replace("_", "-")
        if isinstance(self.value, bool):
            return f"--{flag}: {self.reason}" if self.value else f"--no-{flag}: {self.reason}"
        return f"--{flag} {self.value}: {self.reason}"


@dataclass(frozen=True)
class _Length:
    """How long to train: images to be seen, also for each label, in at least and at most epochs."""

    images: int
    per_label: int
    least: int
    most: int

    def epochs(self, data: TrainingSet) -> int:
        seen = max(self.images, self.per_label * data.labels)
        return min(self.most, max(self.least, math.ceil(seen / data.images)))


_PRETRAINED = _Length(3_000, per_label=100, least=3, most=30)
_FROM_SCRATCH = _Length(20_000, per_label=200, least=20, most=60)


def settled(config: TrainConfig) -> TrainConfig:
    """A copy in which switches that nobody set act as they do where no recipe is chosen."""
    given = {name: value for name in _UNSET if (value := getattr(config, name)) is not None}
    freeze = None if config.freeze == "none" else config.freeze
    return config.replace(**{**_UNSET, **given, "freeze": freeze})


def as_built_in(config: TrainConfig, *, pretrained: bool) -> TrainConfig:
    """A copy with what is not given as it is for the built-in data sets.

    Args:
        config: with its data set; both spellings of a batch are left as they are given.
        pretrained: the weights come from a directory or the hub.
    """
    last_batch = config.last_batch
    if last_batch is None:  # the references of the digits were recorded without the last images
        last_batch = "drop" if config.dataset == "digits" and config.order is None else "train"
    batch = config.global_batch_size
    if config.batch_size is None:
        batch = batch or (16 if pretrained else 64)
    lr = config.lr
    if lr is None:
        lr = _PRETRAINED_LR if pretrained else _SCRATCH_LR
        lr = _LORA_LR if config.lora_rank else lr
    epochs = config.epochs or (3 if pretrained else 20)
    return settled(config).replace(
        epochs=epochs, lr=lr, last_batch=last_batch, global_batch_size=batch
    )


def choose(asked: TrainConfig, data: TrainingSet) -> tuple[Choice, ...]:
    """The settings that nobody named, in the order in which they are told.

    Args:
        asked: the configuration before defaults were filled in: what it names is left alone.
        data: what to fit; at least one image.
    """
    own = any(getattr(asked, name) is not None for name in _OF_THE_WHOLE_MODEL)
    freezes = asked.freeze is None and data.pretrained and data.device == "cpu" and not own
    head_alone = freezes or asked.freeze == "backbone"
    found = [_held_out(data)] if data.held_out else []
    found += [_batch(data, drops=asked.last_batch == "drop")] if asked.batch_size is None else []
    found += [_frozen(asked)] if freezes else []
    found += [_rate(asked, data, head_alone=head_alone), _warm_up(head_alone=head_alone)]
    found += [] if asked.max_steps is not None else [_epochs(data)]
    if not own:
        found += _crops(asked, head_alone=head_alone)
    return tuple(choice for choice in found if getattr(asked, choice.name) is None)


def explained(choices: tuple[Choice, ...], data: TrainingSet) -> list[str]:
    """What to say about them before the run; nothing without any."""
    if not choices:
        return []
    head = (
        f"recipe for {data.images:,} images of {data.labels} labels on {data.device} "
        "(what a flag or --config names wins):"
    )
    return [head, *(f"  {choice}" for choice in choices)]


def fitting_batch(images: int) -> int:
    """The default global batch: a 64th of the images, 8 to 64, or near that if fewer are left over.

    Of the batches from half to one and a half times that, in steps that common numbers of processes
    and micro-batches divide, the one whose full batches leave the fewest images to the last one; up
    to a hundredth counts as none, and the nearest of equals is taken.
    """
    goal = min(_LARGEST_BATCH, max(_SMALLEST_BATCH, images // 64))
    step = 8 if goal >= 32 else 4
    sizes = range(step, min(images, goal * 3 // 2) + 1, step)
    near = [size for size in sizes if 2 * size >= goal]
    if not near:  # fewer images than a step
        return images

    def cost(size: int) -> tuple[int, int, int]:
        return max(0, images % size - images // 100), abs(size - goal), -size

    return min(near, key=cost)


def share_to_hold_out(images: int, labels: int) -> float:
    """The default ``--val-split``: a tenth, or up to a fifth where that are few to judge by.

    With 4 of 40 images an accuracy is known to within 45 hundredths, with 50 to within 14.

    Args:
        images: to train and to evaluate on.
        labels: of them.

    Returns:
        In whole hundredths, so that it can be written down.
    """
    enough = max(_ENOUGH_HELD_OUT, _ENOUGH_OF_A_LABEL * labels)
    share = math.ceil(100 * enough / images) / 100
    return min(_MOST_HELD_OUT, max(LEAST_HELD_OUT, share))


def _held_out(data: TrainingSet) -> Choice:
    reason = (
        f"a tenth to evaluate on, or more for {_ENOUGH_HELD_OUT} images and {_ENOUGH_OF_A_LABEL} "
        "of each label, up to a fifth; the same share of each label"
    )
    return Choice("val_split", data.held_out, reason)


def _batch(data: TrainingSet, *, drops: bool) -> Choice:
    size = fitting_batch(data.images)
    left = data.images % size
    rest = "all batches of an epoch are full"
    if left:
        rest = f"{left} sit out each epoch" if drops else f"an epoch's last batch has {left}"
    reason = f"near a 64th of {data.images:,} images (8 to 64); {rest}"
    return Choice("global_batch_size", size, reason)


def _random(asked: TrainConfig) -> list[str]:
    """The flags of what was asked to change images at random."""
    return [f"--{name.replace('_', '-')}" for name in _RANDOM if getattr(asked, name)]


def _frozen(asked: TrainConfig) -> Choice:
    reason = (
        "pretrained, on a CPU: only the head is trained, with no backward pass through the rest; "
        "--freeze none trains all"
    )
    if flags := _random(asked):
        reason += (
            f"; with {' and '.join(flags)} the rest is computed anew in each epoch, and once "
            "without"
        )
    return Choice("freeze", "backbone", reason)


def _rate(asked: TrainConfig, data: TrainingSet, *, head_alone: bool) -> Choice:
    if asked.lora_rank:
        return Choice("lr", _LORA_LR, "for adapters, which begin at zero")
    if head_alone:
        return Choice("lr", _HEAD_LR, "for a new head on fixed features")
    if data.pretrained:
        return Choice("lr", _PRETRAINED_LR, "for pretrained weights")
    return Choice("lr", _SCRATCH_LR, "from scratch")


def _warm_up(*, head_alone: bool) -> Choice:
    if head_alone:
        return Choice("warmup_ratio", 0.0, "a head alone needs no warm-up")
    return Choice("warmup_ratio", _WARM_UP, "the share of the steps in which the rate rises")


def _epochs(data: TrainingSet) -> Choice:
    length = _PRETRAINED if data.pretrained else _FROM_SCRATCH
    epochs = length.epochs(data)
    reason = (
        f"{epochs * data.images:,} images seen; aimed at are {length.images:,}, or "
        f"{length.per_label} for each label, in {length.least} to {length.most} epochs"
    )
    return Choice("epochs", epochs, reason)


def _crops(asked: TrainConfig, *, head_alone: bool) -> list[Choice]:
    if head_alone and _random(asked):
        return []
    if head_alone:
        reason = "no random augmentation: what is frozen gives each image the same features"
        return [Choice("random_resized_crop", False, reason)]
    if asked.random_resized_crop is False:
        return []
    reason = "another part of each image in each epoch, as few images are learned by heart"
    part = "no part is smaller, which would hardly show what the label says"
    crops = [Choice("random_resized_crop", True, reason)] if not asked.random_resized_crop else []
    # A person who asks for crops gets them as they are described.
    return [*crops, Choice("min_crop_scale", _LARGE_CROP_SCALE, part)] if crops else []
