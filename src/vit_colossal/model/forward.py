"""A plain encoder's forward pass in pieces: for those who compute with a part of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from vit_colossal.plan.model_spec import ModelSpec

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


def embed(model: PreTrainedModel, spec: ModelSpec, pixel_values: torch.Tensor) -> torch.Tensor:
    """Hidden states [b, tokens, hidden] of pixels [b, C, H, W]: what the first layer reads."""
    encoder = spec.family.encoder
    assert encoder is not None
    backbone = model.get_submodule(spec.family.backbone)
    embeddings = backbone.get_submodule(encoder.embeddings)
    dtype = next(embeddings.parameters()).dtype
    hidden_states: torch.Tensor = embeddings(pixel_values.to(dtype))
    if encoder.before is not None:
        hidden_states = backbone.get_submodule(encoder.before)(hidden_states)
    return hidden_states


def through_layers(
    model: PreTrainedModel,
    spec: ModelSpec,
    hidden_states: torch.Tensor,
    start: int,
    end: int | None,
) -> torch.Tensor:
    """Hidden states after the layers from ``start`` to before ``end``; None is all that follow."""
    layers: Any = model.get_submodule(f"{spec.family.backbone}.{spec.family.blocks}")
    angles = _angles(model, spec, hidden_states)
    for layer in layers[start:end]:
        hidden_states = layer(hidden_states, None, **angles)  # nothing is masked
    return hidden_states


def _angles(model: PreTrainedModel, spec: ModelSpec, like: torch.Tensor) -> dict[str, Any]:
    """What layers with rotary positions read beside the hidden states, by its name there."""
    encoder = spec.family.encoder
    if encoder is None or encoder.rotary is None:
        return {}
    rotary = model.get_submodule(f"{spec.family.backbone}.{encoder.rotary}")
    # It reads the size and the type of the pixels alone, which are on the first stage.
    pixels = like.new_empty(1).expand(1, 1, spec.image_size, spec.image_size)
    return {"position_embeddings": rotary(pixels)}


def logits_of(model: PreTrainedModel, spec: ModelSpec, hidden_states: torch.Tensor) -> torch.Tensor:
    """Logits [b, labels] of the last layer's hidden states [b, tokens, hidden]."""
    row, encoder = spec.family, spec.family.encoder
    assert encoder is not None
    if encoder.norm is not None:
        hidden_states = model.get_submodule(f"{row.backbone}.{encoder.norm}")(hidden_states)
    pooled = POOLING[encoder.pooling](hidden_states, spec.shape.extra_tokens)
    logits: torch.Tensor = model.get_submodule(row.head)(pooled)
    return logits
