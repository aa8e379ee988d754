"""The Hugging Face ViT for one label set, its image processor, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from vit_colossal.errors import ModelError
from vit_colossal.model_files import model_folder, processor_folder
from vit_colossal.model_spec import ModelSpec

if TYPE_CHECKING:
    from transformers import ViTForImageClassification, ViTImageProcessor

#: PIL's bilinear filter, what ViT processors use.
BILINEAR = 2


def build_model(spec: ModelSpec, labels: tuple[str, ...], seed: int) -> ViTForImageClassification:
    """A ``ViTForImageClassification`` whose head fits ``labels``; fp32, on the CPU.

    The weights of a new head, or of a whole new model, are a function of ``seed`` alone, so every
    rank builds the same model. Only safetensors are read.

    Raises:
        ModelError: the weights cannot be loaded.
    """
    from transformers import ViTConfig, ViTForImageClassification

    id2label = dict(enumerate(labels))
    label2id = {label: index for index, label in id2label.items()}
    torch.manual_seed(seed)
    if not spec.pretrained:
        config = ViTConfig(**spec.overrides, id2label=id2label, label2id=label2id)
        model = ViTForImageClassification(config)
    else:
        try:
            with _quiet():
                model = ViTForImageClassification.from_pretrained(
                    model_folder(spec.name),
                    id2label=id2label,
                    label2id=label2id,
                    num_labels=len(labels),
                    ignore_mismatched_sizes=True,
                    use_safetensors=True,
                    torch_dtype=torch.float32,
                )
        except ModelError:
            raise
        except Exception as error:  # whatever an odd configuration leads the library to
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(
                [f"--model {spec.name}: the weights cannot be loaded: {reason}"]
            ) from None
        # Not the folder in this machine's cache, which would be saved with the model.
        model.config._name_or_path = spec.name
    # Set once, here: the model would otherwise guess it from the first labels it sees.
    model.config.problem_type = "single_label_classification"
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that the head is new, from every rank: that is what fine-tuning is."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def build_processor(spec: ModelSpec) -> ViTImageProcessor:
    """The processor saved with the model; ViT's defaults (mean = std = 0.5) where there is none.

    Raises:
        ModelError: it cannot be fetched, or is none that images can be prepared with.
    """
    from transformers import ViTImageProcessor

    folder = processor_folder(spec.name) if spec.pretrained else None
    if folder is None:
        return ViTImageProcessor(
            size={"height": spec.image_size, "width": spec.image_size}, resample=BILINEAR
        )
    try:
        processor = ViTImageProcessor.from_pretrained(folder)
    except Exception as error:  # whatever an odd file leads the library to
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError([f"--model {spec.name}: no image processor: {reason}"]) from None
    problems = [
        f"--model {spec.name}: preprocessor_config.json: {name} is {value!r}: {needed}"
        for name, value, needed, valid in (
            ("image_mean", processor.image_mean, "3 numbers are needed", _is_triple),
            ("image_std", processor.image_std, "3 positive numbers are needed", _is_scale),
            ("resample", processor.resample, "a number from 0 to 5 is needed", _is_filter),
        )
        if not valid(value)
    ]
    if problems:
        raise ModelError(problems)
    return processor


def _is_triple(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(isinstance(number, (int, float)) and math.isfinite(number) for number in value)
    )


def _is_scale(value: Any) -> bool:
    return _is_triple(value) and min(value) > 0


def _is_filter(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value <= 5


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
