"""Parts of a model and of an update, timed one by one in this process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.nn.utils import clip_grad_norm_

from vit_colossal.calibration.work import Work
from vit_colossal.data.transforms import normalize
from vit_colossal.forecast.state import element_size
from vit_colossal.model.build import blocks, checkpoint_activations
from vit_colossal.model.configuration import blueprint
from vit_colossal.model.forward import embed, logits_of, through_layers
from vit_colossal.model.loss import criterion
from vit_colossal.model.processor import preprocessing_of
from vit_colossal.plan.model_spec import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def clock(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


class ModelParts:
    """A model of a few blocks with random weights, rounded and cut as a candidate's."""

    def __init__(
        self, work: Work, rounding: str, tp: int, checkpointed: bool, device: torch.device
    ) -> None:
        spec = work.plan.spec
        self.spec, self.labels, self.device = spec, work.num_labels, device
        self.layers = work.layers
        self.preprocessing = preprocessing_of(spec)
        model = blueprint(
            spec, spec.embedded_size, work.num_labels, layers=work.layers, device=device.type
        )
        if tp > 1:
            cut_products(model, spec, tp)
        half = torch.float16 if work.plan.config.precision == "fp16" else torch.bfloat16
        self.type = half if rounding == "16-bit weights" else torch.float32
        self.autocast = half if rounding == "autocast" else None
        self.model = model.to(self.type).train()
        if checkpointed:
            checkpoint_activations(self.model)

    def seconds(self, images: int) -> list[float]:
        """One pass: embeddings both ways, blocks forward and backward, the head both ways.

        Each part reads what the one before it gave, cut off from it, so that its backward pass can
        be timed alone. Gradients are added up from pass to pass, as those of micro-batches are.
        """
        spec, size, device = self.spec, self.spec.image_size, self.device
        pixels = torch.zeros(images, 3, size, size, dtype=torch.uint8, device=device)
        labels = torch.zeros(images, dtype=torch.long, device=device)
        marks = [clock(device)]
        with self._rounded():
            hidden = embed(self.model, spec, normalize(pixels, self.preprocessing, self.type))
            marks.append(clock(device))
            entry = hidden.detach().requires_grad_()
            last = through_layers(self.model, spec, entry, 0, None)
            marks.append(clock(device))
            end = last.detach().requires_grad_()
            logits = logits_of(self.model, spec, end)
            loss = criterion(logits, labels)
        loss.backward()
        marks.append(clock(device))
        last.backward(end.grad)
        marks.append(clock(device))
        hidden.backward(entry.grad)
        marks.append(clock(device))
        embedded, forward, head, backward, rest = (late - early for early, late in pairwise(marks))
        return [embedded + rest, forward / self.layers, backward / self.layers, head]

    def _rounded(self) -> AbstractContextManager[object]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)


def cut_products(model: PreTrainedModel, spec: ModelSpec, tp: int) -> None:
    """Leave of each block's products what one of ``tp`` ranks computes; nothing is summed up."""
    encoder = spec.family.encoder
    assert encoder is not None
    for block in blocks(model, spec):
        modules: dict[str, Any] = dict(block.named_modules())
        for names, columns in ((encoder.columns, True), (encoder.rows, False)):
            for name in names:
                if name not in modules:  # a gated MLP and a plain one stand in one list
                    continue
                inner, outer = modules[name].in_features, modules[name].out_features
                sizes = (inner, outer // tp) if columns else (inner // tp, outer)
                biased = modules[name].bias is not None
                narrow = torch.nn.Linear(*sizes, bias=biased, device=model.device)
                block.set_submodule(name, narrow)


def exchanging(
    group: dist.ProcessGroup,
    kind: torch.dtype,
    tensors: int,
    numel: int,
    device: torch.device,
    *,
    bucket_elements: int,
    gather: bool,
) -> Callable[[], None]:
    """What ColossalAI's ZeRO does with gradients and weights beside sending and updating them: this
    rank's, in a group of its own.

    Args:
        group: that this rank is alone in.
        kind: of the weights.
        tensors: so many.
        numel: elements of each.
        device: where they lie.
        bucket_elements: of one transfer.
        gather: put the weights together, too.
    """
    # It imports ColossalAI, which wants its device chosen before.
    from vit_colossal.runtime.transfers import exchange_only

    weights = [torch.nn.Parameter(torch.zeros(numel, device=device, dtype=kind))]
    weights += [torch.nn.Parameter(weights[0].detach().clone()) for _ in range(tensors - 1)]
    zero = exchange_only(weights, group, bucket_elements)

    def exchange() -> None:
        for weight in weights:
            weight.grad = torch.ones_like(weight)  # a new one, as the backward pass leaves it
            zero._add_to_bucket(weight, 0)
        zero._reduce_grad(True)
        if gather:
            zero.step()
        zero.zero_grad()
        zero.zero_grad_stores()

    return exchange


def updating(
    work: Work, plugin: str, tensors: int, numel: int, device: torch.device
) -> Callable[[], None]:
    """An update of so many tensors by a plugin's optimizer: with 16-bit weights from their
    gradients to fp32 masters and back."""
    # It imports ColossalAI, which wants its device chosen before.
    from vit_colossal.strategies.choice import strategy_of

    config = work.plan.config.replace(plugin=plugin)
    kept = torch.bfloat16 if element_size(config) == 2 else torch.float32
    weights = [torch.nn.Parameter(torch.zeros(numel, device=device)) for _ in range(tensors)]
    working = [torch.zeros(numel, device=device, dtype=kept) for _ in range(tensors)]
    gradients = [torch.full_like(each, 1e-3) for each in working]
    group = {"params": weights, "lr": 1e-3, "weight_decay": 0.1}
    optimizer = strategy_of(plugin).optimizer([group], config, device.type)

    def update() -> None:
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.float()
        if config.clip_grad_norm > 0:
            clip_grad_norm_(weights, config.clip_grad_norm)
        optimizer.step()
        if kept != torch.float32:
            torch._foreach_copy_(working, [weight.detach() for weight in weights])

    return update
