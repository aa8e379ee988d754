"""The Hugging Face ViT for one label set, its image processor, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vit_colossal.errors import ModelError
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
            model = ViTForImageClassification.from_pretrained(
                spec.name,
                id2label=id2label,
                label2id=label2id,
                num_labels=len(labels),
                ignore_mismatched_sizes=True,
                use_safetensors=True,
                torch_dtype=torch.float32,
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(
                [f"--model {spec.name}: the weights cannot be loaded: {reason}"]
            ) from None
    # Set once, here: the model would otherwise guess it from the first labels it sees.
    model.config.problem_type = "single_label_classification"
    return model


def build_processor(spec: ModelSpec) -> ViTImageProcessor:
    """The processor saved with the model; ViT's defaults (mean = std = 0.5) where there is none."""
    from transformers import ViTImageProcessor

    if spec.pretrained:
        path = Path(spec.name)
        if not path.is_dir() or (path / "preprocessor_config.json").is_file():
            try:
                return ViTImageProcessor.from_pretrained(spec.name)
            except OSError as error:
                reason = str(error).splitlines()[0]
                raise ModelError([f"--model {spec.name}: no image processor: {reason}"]) from None
    return ViTImageProcessor(
        size={"height": spec.image_size, "width": spec.image_size}, resample=BILINEAR
    )


def count_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


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
