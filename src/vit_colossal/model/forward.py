"""A plain encoder's forward pass in pieces: for those who compute with a part of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from vit_colossal.families.family import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def _first_and_patches(hidden_states: torch.Tensor, extra: int) -> torch.Tensor:
    patches = hidden_states[:, extra:].mean(dim=1)
    return torch.cat([hidden_states[:, 0], patches], dim=1)


#: What the classifier reads of the last hidden states [b, tokens, hidden], of which the first
#: ``extra`` are no patches.
POOLING: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "first": lambda hidden_states, extra: hidden_states[:, 0, :],
    "mean": lambda hidden_states, extra: hidden_states.mean(dim=1),
    "patches": lambda hidden_states, extra: hidden_states[:, extra:, :].mean(dim=1),
    "first and patches": _first_and_patches,
}


def embed(model: PreTrainedModel, family: Family, pixel_values: torch.Tensor) -> torch.Tensor:
    """Hidden states [b, tokens, hidden] of pixels [b, 3, H, W]: what the first layer reads."""
    encoder = family.encoder
    assert encoder is not None
    backbone = model.get_submodule(family.backbone)
    embeddings = backbone.get_submodule(encoder.embeddings)
    dtype = next(embeddings.parameters()).dtype
    hidden_states: torch.Tensor = embeddings(pixel_values.to(dtype))
    if encoder.before is not None:
        hidden_states = backbone.get_submodule(encoder.before)(hidden_states)
    return hidden_states


def through_layers(
    model: PreTrainedModel, family: Family, hidden_states: torch.Tensor, start: int, end: int | None
) -> torch.Tensor:
    """Hidden states after the layers from ``start`` to before ``end``; None is all that follow."""
    layers: Any = model.get_submodule(f"{family.backbone}.{family.blocks}")
    for layer in layers[start:end]:
        hidden_states = layer(hidden_states, None)  # nothing is masked
    return hidden_states


def logits_of(
    model: PreTrainedModel, family: Family, hidden_states: torch.Tensor, extra_tokens: int
) -> torch.Tensor:
    """Logits [b, labels] of the last layer's hidden states [b, tokens, hidden].

    Args:
        model: the classifier.
        family: names its modules.
        hidden_states: what the last layer gave.
        extra_tokens: how many of the tokens are no patches.
    """
    encoder = family.encoder
    assert encoder is not None
    if encoder.norm is not None:
        norm = model.get_submodule(f"{family.backbone}.{encoder.norm}")
        hidden_states = norm(hidden_states)
    pooled = POOLING[encoder.pooling](hidden_states, extra_tokens)
    logits: torch.Tensor = model.get_submodule(family.head)(pooled)
    return logits
