"""The Hugging Face ViT for one label set, its image processor, and what it costs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from vit_colossal.errors import ModelError
from vit_colossal.plan.model_files import model_folder, processor_folder, weight_files
from vit_colossal.plan.model_spec import ModelSpec
from vit_colossal.plan.weight_names import wrapper_prefix

if TYPE_CHECKING:
    from transformers import ViTForImageClassification, ViTImageProcessorPil

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
        model, _ = load_pretrained(spec.name, f"--model {spec.name}", id2label, label2id)
        # Not the folder in this machine's cache, which would be saved with the model.
        model.config._name_or_path = spec.name
    # Set once, here: the model would otherwise guess it from the first labels it sees.
    model.config.problem_type = "single_label_classification"
    return model


def load_pretrained(
    name: str,
    subject: str,
    id2label: dict[int, str] | None = None,
    label2id: dict[str, int] | None = None,
) -> tuple[ViTForImageClassification, list[str]]:
    """A model of a folder or the hub with its weights; fp32, on the CPU.

    What training wrappers put in front of the names is taken off. Only safetensors are read.

    Args:
        name: the folder or the repository.
        subject: what an error calls it.
        id2label: names of a new head's labels; None keeps the model's own.
        label2id: the same the other way round.

    Returns:
        The model, and the names that had no weights and were made up.

    Raises:
        ModelError: the weights cannot be loaded.
    """
    from safetensors.torch import load_file
    from transformers import ViTConfig, ViTForImageClassification

    folder = model_folder(name)
    labels = {"id2label": id2label, "label2id": label2id} if id2label is not None else {}
    try:
        stored = {k: t for f in weight_files(name, folder) for k, t in load_file(f).items()}
        prefix = wrapper_prefix(list(stored))
        with _quiet():
            model, report = ViTForImageClassification.from_pretrained(
                None,
                config=ViTConfig.from_pretrained(folder, **labels),
                state_dict={key.removeprefix(prefix): t for key, t in stored.items()},
                ignore_mismatched_sizes=id2label is not None,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except ModelError:
        raise
    except Exception as error:  # whatever an odd configuration leads the library to
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError([f"{subject}: the weights cannot be loaded: {reason}"]) from None
    return model, sorted(report["missing_keys"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that the head is new, and a bar of less than a second, from every rank.

    A new head is what fine-tuning is.
    """
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    # Switching its bars off would switch off the hub's too.
    hook = logging.set_tqdm_hook(lambda factory, args, options: logging.EmptyTqdm(*args))
    try:
        yield
    finally:
        logging.set_tqdm_hook(hook)
        logging.set_verbosity(before)


def build_processor(spec: ModelSpec) -> ViTImageProcessorPil:
    """The processor saved with the model; ViT's defaults (mean = std = 0.5) where there is none.

    The one that resizes with Pillow, as all before transformers 5 did: that of torchvision gives
    pixels that depend on the CPU's instruction set (docs/data.md). Both save the same file.

    Raises:
        ModelError: it cannot be fetched, or is none that images can be prepared with.
    """
    from transformers import ViTImageProcessorPil

    folder = processor_folder(spec.name) if spec.pretrained else None
    if folder is None:
        return ViTImageProcessorPil(
            size={"height": spec.image_size, "width": spec.image_size}, resample=BILINEAR
        )
    try:
        processor = ViTImageProcessorPil.from_pretrained(folder)
    except Exception as error:  # whatever an odd file leads the library to
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError([f"--model {spec.name}: no image processor: {reason}"]) from None
    problems = [
        f"--model {spec.name}: preprocessor_config.json: {name} is "
        f"{json.dumps(value, default=repr)}: {needed}"
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
