"""Writing a Hugging Face directory, and making sure that it was written."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from vit_colossal.durable import filling
from vit_colossal.errors import ModelError, UserError
from vit_colossal.families.names import family_of, in_files, named_weights
from vit_colossal.model.weights_fit import check_weights, weight_files
from vit_colossal.plan.model_spec import read_spec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ViTImageProcessorPil


class ModelNotWritten(UserError):
    """The model directory does not hold the model. Exit code 1: the run has no result."""


def save_directory(
    directory: Path,
    model: PreTrainedModel,
    processor: ViTImageProcessorPil,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write what ``from_pretrained`` reads: config, safetensors, image processor.

    Whoever holds the weights calls this. ``PreTrainedModel.save_pretrained`` writes on the process
    of global rank 0 alone, while those of a pipeline come together on its last stage.

    Args:
        directory: created if missing; what it held stays until all is written.
        model: the plain model, for its configuration.
        processor: saved beside.
        weights: by published name; None are the model's own.

    Raises:
        ModelNotWritten: the weights are not finite, or the directory cannot be read back or holds
            something else.
    """
    from huggingface_hub import save_torch_state_dict

    if weights is None:
        weights = {name: parameter.detach() for name, parameter in named_weights(model)}
    weights = in_files(family_of(model), weights)
    spoiled = next((n for n, tensor in weights.items() if not tensor.isfinite().all()), None)
    if spoiled is not None:
        raise ModelNotWritten(f"{directory}: no model was written: {spoiled} is not finite")
    config = model.config
    config.architectures = [type(model).__name__]
    config.dtype = next(iter(weights.values())).dtype
    with filling(directory, instead_of="model[-.]*safetensors*") as folder:
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
        save_torch_state_dict(weights, folder, metadata={"format": "pt"})
        _require_written(directory, folder, weights)
        make_readable(folder, like="config.json")


def make_readable(directory: Path, *, like: str) -> None:
    """Give weights the mode of a file beside them: safetensors makes them unreadable for others."""
    mode = stat.S_IMODE((directory / like).stat().st_mode)
    for file in directory.glob("*.safetensors"):
        file.chmod(mode)


def _require_written(directory: Path, folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Read everything back: a run whose model is not there must not look like one that is.

    Args:
        directory: what it will be called.
        folder: where it lies.
        weights: what was written.
    """
    name = str(folder)
    try:
        check_weights(read_spec(name, {}))
        remaining = dict(weights)
        for path in weight_files(name, folder):
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - it is no mapping
                    expected, tensor = remaining.pop(key, None), file.get_tensor(key)
                    if expected is None or not _same(tensor, expected.cpu()):
                        raise ModelNotWritten(f"{directory}: {path.name} has another {key}")
    except (ModelError, OSError, SafetensorError) as error:
        reason = str(error).removeprefix(f"--model {folder}: ")
        raise ModelNotWritten(f"{directory}: the model was not written: {reason}") from error
    if remaining:
        first = next(iter(remaining))
        raise ModelNotWritten(
            f"{directory}: the model was not written: {first} and {len(remaining) - 1} more "
            "tensors are missing"
        )


def _same(tensor: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal bit for bit; NaN is then equal to itself."""
    if tensor.dtype != expected.dtype or tensor.shape != expected.shape:
        return False
    return torch.equal(tensor.view(torch.uint8), expected.contiguous().view(torch.uint8))
