"""The classifier of transformers for one label set, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from vit_colossal.model.configuration import classifier_of, configuration_of
from vit_colossal.model.head import match_head
from vit_colossal.model.pretrained import load_pretrained
from vit_colossal.plan.model_spec import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_model(spec: ModelSpec, labels: tuple[str, ...], seed: int) -> PreTrainedModel:
    """A classifier of images whose head fits ``labels``; fp32, on the CPU.

    The weights of a new head, or of a whole new model, are a function of ``seed`` alone, so every
    rank builds the same model. Only safetensors are read. A pretrained head is kept where its
    labels have these names, see ``model.head``.

    Raises:
        ModelError: the weights cannot be loaded.
    """
    torch.manual_seed(seed)
    if not spec.pretrained:
        return classifier_of(spec.family)(configuration_of(spec, labels))
    head = match_head(spec, labels)
    model, _ = load_pretrained(spec, labels, head, f"--model {spec.name}")
    return model


def blocks(model: torch.nn.Module, spec: ModelSpec) -> list[torch.nn.Module]:
    """The blocks of a model, in order."""
    row = spec.family
    name, _, inner = f"{row.backbone}.{row.blocks}".partition(".*.")
    lists = [model.get_submodule(name)]
    if inner:
        lists = [stage.get_submodule(inner) for stage in lists[0].children()]
    return [block for each in lists for block in each.children()]


def checkpoint_activations(
    model: PreTrainedModel, context_fn: Callable[[], Any] | None = None
) -> None:
    """Compute each layer's activations again in the backward pass, instead of keeping them.

    Args:
        model: whose layers.
        context_fn: as for ``torch.utils.checkpoint.checkpoint``.
    """
    options: dict[str, Any] = {"use_reentrant": False}
    if context_fn is not None:
        options["context_fn"] = context_fn
    # The first name warns in releases that have the second.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable(options)


def count_parameters(model: torch.nn.Module, *, trained_only: bool = False) -> int:
    parameters = (p for p in model.parameters() if p.requires_grad or not trained_only)
    return sum(parameter.numel() for parameter in parameters)


def flops_per_image(spec: ModelSpec, num_labels: int) -> int:
    """Floating-point operations of one forward and backward pass of one image.

    Multiply-adds counted twice, the backward pass as twice the forward (Kaplan et al. 2020,
    section 2.1); what is counted stands in ``families.flops``.
    """
    return 3 * 2 * spec.family.flops(spec.shape, spec.image_size, num_labels)
