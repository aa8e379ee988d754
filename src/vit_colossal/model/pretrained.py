"""A model from a folder or the hub: its weights made to fit its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vit_colossal.errors import ModelError
from vit_colossal.families.names import plain_names
from vit_colossal.model.configuration import (
    blueprint,
    classifier_of,
    configuration_of,
    quiet,
    reason_of,
)
from vit_colossal.model.head import Head, misfit
from vit_colossal.plan.model_files import model_folder, weight_files
from vit_colossal.plan.model_spec import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_pretrained(
    spec: ModelSpec, labels: tuple[str, ...], head: Head | None, subject: str
) -> tuple[PreTrainedModel, list[str]]:
    """A model of a folder or the hub with its weights; fp32, on the CPU.

    What training wrappers put in front of the names is taken off. Only safetensors are read.

    Args:
        spec: the model; for another image size its position embeddings are interpolated.
        labels: names of the outputs.
        head: which outputs are the stored ones; None is all of them, in their order.
        subject: what an error calls the model.

    Returns:
        The model, and the names that had no weights and were made up, but for those that nothing
        is computed with.

    Raises:
        ModelError: the weights cannot be loaded.
    """
    from safetensors.torch import load_file

    row, config = spec.family, configuration_of(spec, labels)
    try:
        files = weight_files(spec.name, model_folder(spec.name))
        stored = {key: tensor for file in files for key, tensor in load_file(file).items()}
        weights = {row.published(new): stored[old] for old, new in plain_names(stored).items()}
        _fit_head(weights, head, len(labels), spec)
        if spec.resized and row.positions:
            _fit_positions(weights, spec)
        with quiet():
            model, report = classifier_of(row).from_pretrained(
                None, config=config, state_dict=weights, dtype=torch.float32,
                output_loading_info=True,
            )  # fmt: skip
    except ModelError:
        raise
    except Exception as error:  # whatever odd files lead the library to
        raise ModelError([f"{subject}: the weights cannot be loaded: {reason_of(error)}"]) from None
    # Not the folder in this machine's cache, which would be saved with the model.
    model.config._name_or_path = spec.name
    missing = [name for name in report["missing_keys"] if not row.is_unused(name)]
    return model, sorted(missing)


def _fit_head(
    weights: dict[str, torch.Tensor], head: Head | None, num_labels: int, spec: ModelSpec
) -> None:
    """Put the classifier's rows in the order of the labels, or leave it out to be made anew."""
    names = [f"{spec.family.head}.{part}" for part in ("weight", "bias")]
    shapes = {name: tuple(weights[name].shape) for name in names if name in weights}
    if head is None and names[0] in shapes and (reason := misfit(spec, shapes)):
        raise ValueError(reason)
    for name in shapes:
        if head is None:
            if len(weights[name]) != num_labels:
                rows = len(weights[name])
                raise ValueError(f"{name} has {rows} rows, config.json names {num_labels} labels")
        elif head.rows is None:
            del weights[name]
        else:
            weights[name] = weights[name][list(head.rows)]


def _fit_positions(weights: dict[str, torch.Tensor], spec: ModelSpec) -> None:
    """Interpolate the position embeddings to another image size, as the library itself does."""
    row = spec.family
    assert row.positions is not None
    # Of a base model without its class's prefix; a text tower has some of that name too.
    names = (f"{row.backbone}.{row.positions}", row.positions)
    name = next(name for name in names if name in weights)
    module, _, inner = row.positions.partition(".")
    holder, _, leaf = inner.rpartition(".")
    stored = weights[name].float()
    with torch.no_grad():
        model = blueprint(spec, spec.image_size)
        embeddings = model.get_submodule(f"{row.backbone}.{module}")
        setattr(embeddings.get_submodule(holder), leaf, torch.nn.Parameter(stored))
        like = torch.empty(1, spec.tokens, spec.shape.hidden_size)
        size = spec.image_size
        new = embeddings.interpolate_pos_encoding(like, size, size)
        weights[name] = (
            new.reshape(-1, *stored.shape[1:]).clone() if stored.ndim == 2 else new.clone()
        )
