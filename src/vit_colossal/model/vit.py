"""The Hugging Face ViT for one label set, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vit_colossal.model.pretrained import load_pretrained, vit_config
from vit_colossal.plan.head import match_head
from vit_colossal.plan.model_spec import ModelSpec

if TYPE_CHECKING:
    from transformers import ViTForImageClassification


def build_model(spec: ModelSpec, labels: tuple[str, ...], seed: int) -> ViTForImageClassification:
    """A ``ViTForImageClassification`` whose head fits ``labels``; fp32, on the CPU.

    The weights of a new head, or of a whole new model, are a function of ``seed`` alone, so every
    rank builds the same model. Only safetensors are read. A pretrained head is kept where its
    labels have these names, see ``plan.head``.

    Raises:
        ModelError: the weights cannot be loaded.
    """
    from transformers import ViTForImageClassification

    torch.manual_seed(seed)
    if not spec.pretrained:
        return ViTForImageClassification(vit_config(spec, labels))
    head = match_head(spec, labels)
    model, _ = load_pretrained(spec, labels, head, f"--model {spec.name}")
    return model


def count_parameters(model: torch.nn.Module, *, trained_only: bool = False) -> int:
    parameters = (p for p in model.parameters() if p.requires_grad or not trained_only)
    return sum(parameter.numel() for parameter in parameters)


def flops_per_image(spec: ModelSpec, num_labels: int) -> int:
    """Floating-point operations of one forward and backward pass of one image.

    Multiply-adds of the matrix products counted twice, the backward pass as twice the forward
    (Kaplan et al. 2020, section 2.1); norms, activations and softmax are left out.
    """
    hidden, tokens = spec.hidden_size, spec.tokens
    patches = (tokens - 1) * 3 * spec.patch_size**2 * hidden
    projections = 4 * hidden * hidden * tokens
    attention = 2 * tokens * tokens * hidden
    mlp = 2 * hidden * spec.intermediate_size * tokens
    forward = patches + spec.num_layers * (projections + attention + mlp) + hidden * num_labels
    return 3 * 2 * forward
