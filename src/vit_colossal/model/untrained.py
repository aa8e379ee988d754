"""A model whose weights all come from a checkpoint: its configuration is enough to build it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vit_colossal.model.configuration import classifier_of, configuration_of
from vit_colossal.plan.model_spec import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_untrained(spec: ModelSpec, labels: tuple[str, ...]) -> PreTrainedModel:
    """A classifier of random weights; fp32, on the CPU.

    Args:
        spec: its shape; of a pretrained one ``spec.name`` has the configuration.
        labels: label names, in the order of the outputs.

    Raises:
        ModelError: the configuration cannot be read.
    """
    return classifier_of(spec.family)(configuration_of(spec, labels))
