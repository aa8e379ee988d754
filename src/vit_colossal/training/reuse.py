"""Whether what is frozen is computed once for each image, or in each epoch, and why."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from vit_colossal.data.loaders import TrainBatches
from vit_colossal.model.frozen import FrozenPart, frozen_part, random_rates
from vit_colossal.plan.plan import RunPlan

#: Of fp32, which all but a few layouts compute hidden states in.
_BYTES = 4


@dataclass(frozen=True)
class Reuse:
    """What a run does with the part of its model in front of the first trained weight.

    Attributes:
        part: that part.
        images: of the splits for which it is computed once.
        obstacle: why it is computed in each epoch; empty where it is computed once.
        variation: why it makes something else of a training image each time, so that it is computed
            once for the evaluation alone; empty where it does not.
    """

    part: FrozenPart
    images: int
    obstacle: str
    variation: str = ""

    @property
    def found(self) -> bool:
        """Whether there is any layer to speak of."""
        return self.part.layers > 0

    @property
    def active(self) -> bool:
        """Whether it is computed once."""
        return self.found and not self.obstacle

    def __str__(self) -> str:
        """For the plan, in words."""
        what = "all but the head" if self.part.whole else f"the first {self.part.layers} layers"
        if self.obstacle:
            return f"{what}, computed in each epoch: {self.obstacle}"
        size = features_size(self.part, self.images)
        if not self.variation:
            return f"{what}, computed once for each image and kept: {size}"
        once = f"computed once for each evaluation image and kept: {size}"
        return f"{what}, {once}; for training images in each epoch: {self.variation}"


def features_size(part: FrozenPart, images: int) -> str:
    """How much disk the features of some images take at most, in words."""
    one = part.values * _BYTES
    return f"up to {one / 1e3:.1f} KB an image, {images * one / 1e6:.1f} MB in all"


def find_reuse(
    plan: RunPlan, model: PreTrainedModel, batches: TrainBatches, eval_images: int, steps: int
) -> Reuse:
    """Find what is frozen in a plain model, and whether it gives an image the same each time.

    Args:
        plan: the validated run.
        model: with what is not trained marked so.
        batches: of the training.
        eval_images: of the evaluation split.
        steps: of the whole run.
    """
    part, variation = frozen_part(model, plan.spec), _variation(model, plan, batches)
    images = eval_images + (0 if variation else len(batches.split))
    obstacle = _setting(plan) or _uselessness(plan, part, images, batches, steps)
    return Reuse(part, images, obstacle, variation)


def _variation(model: PreTrainedModel, plan: RunPlan, batches: TrainBatches) -> str:
    if batches.augmentation.active:
        return f"augmentation shows it other images each time ({batches.augmentation})"
    if batches.mixing.active:
        return f"it sees mixed images ({batches.mixing})"
    return _randomness(model, plan)


def _setting(plan: RunPlan) -> str:
    config = plan.config
    if not config.feature_cache:
        return "as --no-feature-cache says"
    if plan.dims.pp > 1:
        return "a pipeline is full of micro-batches only if all stages compute"
    return "compiled layers are not taken apart (--compile)" if config.compile else ""


def _randomness(model: PreTrainedModel, plan: RunPlan) -> str:
    rates = random_rates(model, plan.spec)
    if not rates:
        return ""
    advice = ": --drop-path 0 leaves none out" if rates.keys() == {"drop_path_rate"} else ""
    listed = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
    return f"it drops something else each time ({listed}){advice}"


def _uselessness(
    plan: RunPlan, part: FrozenPart, images: int, batches: TrainBatches, steps: int
) -> str:
    row, config = plan.spec.family, plan.config
    if steps <= batches.steps_per_epoch:
        return "the run sees each image once"
    if not part.whole and row.encoder is None:
        return f"a {row.title} is taken apart at its head alone"
    if not part.whole and plan.device.kind == "cuda":
        # A GPU makes 0.6 MB of hidden states in less time than a host copies them. Not measured.
        return "a GPU computes hidden states about as fast as they are read"
    if part.values * _BYTES * images > config.feature_cache_gb * 1e9:
        size = features_size(part, images)
        return f"{size}, more than --feature-cache-gb {config.feature_cache_gb:g}"
    return ""
