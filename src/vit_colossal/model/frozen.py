"""The part of a model in front of its first trained weight.

What it makes of an image stays the same: it can be computed once, and the rest trained on that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vit_colossal.model.build import blocks
from vit_colossal.model.forward import logits_of, through_layers
from vit_colossal.plan.model_spec import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class FrozenPart:
    """Where a model's first trained weight stands.

    Attributes:
        spec: the model.
        depth: 0 in the embeddings, i + 1 in block i of n, n + 1 behind them, n + 2 in the head.
    """

    spec: ModelSpec
    depth: int

    @property
    def layers(self) -> int:
        """How many blocks are in front of it."""
        return min(max(self.depth - 1, 0), self.spec.shape.num_layers)

    @property
    def whole(self) -> bool:
        """Whether the head alone is trained."""
        return self.depth == self.spec.shape.num_layers + 2

    @property
    def values(self) -> int:
        """How many numbers the rest of the model reads of an image."""
        shape = self.spec.shape
        return shape.features if self.whole else self.spec.tokens * shape.hidden_size

    def first_trained(self, model: torch.nn.Module) -> torch.nn.Module:
        """The module whose input is what is frozen makes of an image."""
        row = self.spec.family
        if self.whole:
            return model.get_submodule(row.head)
        held = blocks(model, self.spec)
        if self.layers < len(held):
            return held[self.layers]
        assert row.encoder is not None and row.encoder.norm is not None
        return model.get_submodule(f"{row.backbone}.{row.encoder.norm}")

    @contextmanager
    def watched(self, model: torch.nn.Module) -> Iterator[list[Tensor]]:
        """Notes, for a while, what each forward pass hands to the trained part: [b, ...]."""
        seen: list[Tensor] = []
        hook = self.first_trained(model).register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0])
        )
        try:
            yield seen
        finally:
            hook.remove()

    def rest_of(self, model: PreTrainedModel) -> Callable[..., Any]:
        """A forward pass that takes what was noted in place of pixels; pixels go all the way."""
        from transformers.modeling_outputs import ImageClassifierOutput

        row = self.spec.family
        from_pixels = model.forward

        def forward(pixel_values: Tensor) -> ImageClassifierOutput:
            if pixel_values.ndim == 4:
                return from_pixels(pixel_values=pixel_values)
            if self.whole:
                return ImageClassifierOutput(logits=model.get_submodule(row.head)(pixel_values))
            hidden_states = through_layers(model, self.spec, pixel_values, self.layers, None)
            return ImageClassifierOutput(logits=logits_of(model, self.spec, hidden_states))

        return forward


def frozen_part(model: PreTrainedModel, spec: ModelSpec) -> FrozenPart:
    """What is in front of a plain model's first trained weight, whoever froze it."""
    row, behind = spec.family, spec.shape.num_layers + 2
    trained = (row.published(name) for name, p in model.named_parameters() if p.requires_grad)
    depths = (
        behind if row.is_head(name) else row.depth_of(name, spec.shape.depths) for name in trained
    )
    return FrozenPart(spec, min(depths, default=behind))


def random_rates(model: PreTrainedModel, spec: ModelSpec) -> dict[str, float]:
    """What a model drops at random in training: rates by the keys of its configuration."""
    values = spec.family.encoder_values(model.config.to_dict())
    return {
        key: float(value)
        for key, value in values.items()
        if "drop" in key and isinstance(value, int | float) and value > 0
    }
