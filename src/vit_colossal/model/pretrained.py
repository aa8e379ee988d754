"""A model from a folder or the hub: its configuration made plain, its weights made to fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from vit_colossal.errors import ModelError
from vit_colossal.plan.head import Head
from vit_colossal.plan.model_files import model_folder, read_config, weight_files
from vit_colossal.plan.model_spec import ModelSpec
from vit_colossal.plan.weight_names import plain_names

if TYPE_CHECKING:
    from transformers import ViTConfig, ViTForImageClassification

#: Keys that say in which form a model answers, and no word of what it computes. They are another
#: program's wishes: what is saved has transformers' defaults. Those of labels are set anew.
_FORM_OF_OUTPUTS = ("return_dict", "torchscript", "output_attentions", "output_hidden_states")
_LABELS = ("num_labels", "id2label", "label2id", "problem_type")


def vit_config(spec: ModelSpec, labels: tuple[str, ...]) -> ViTConfig:
    """The configuration of a classifier of images with these labels.

    Raises:
        ModelError: a pretrained model's cannot be read or is none of a ViT.
    """
    from transformers import ViTConfig

    values: dict[str, Any] = {}
    if spec.pretrained:
        dropped = {*_FORM_OF_OUTPUTS, *_LABELS}
        values = {
            k: v for k, v in read_config(spec.name, weights=False).items() if k not in dropped
        }
    try:
        config = ViTConfig.from_dict({**values, **spec.overrides, **_named(labels)})
    except Exception as error:  # whatever an odd configuration leads the library to
        raise ModelError([f"--model {spec.name}: config.json: {_reason(error)}"]) from None
    # Set once, here: the model would otherwise guess it from the first labels it sees.
    config.problem_type = "single_label_classification"
    return config


def load_pretrained(
    spec: ModelSpec, labels: tuple[str, ...], head: Head | None, subject: str
) -> tuple[ViTForImageClassification, list[str]]:
    """A model of a folder or the hub with its weights; fp32, on the CPU.

    What training wrappers put in front of the names is taken off. Only safetensors are read.

    Args:
        spec: the model; for another image size its position embeddings are interpolated.
        labels: names of the outputs.
        head: which outputs are the stored ones; None is all of them, in their order.
        subject: what an error calls the model.

    Returns:
        The model, and the names that had no weights and were made up.

    Raises:
        ModelError: the weights cannot be loaded.
    """
    from safetensors.torch import load_file
    from transformers import ViTForImageClassification

    config = vit_config(spec, labels)
    try:
        files = weight_files(spec.name, model_folder(spec.name))
        stored = {key: tensor for file in files for key, tensor in load_file(file).items()}
        weights = {new: stored[old] for old, new in plain_names(stored).items()}
        _fit_head(weights, head, len(labels))
        if spec.resized:
            _fit_positions(weights, config, spec)
        with _quiet():
            model, report = ViTForImageClassification.from_pretrained(
                None, config=config, state_dict=weights, dtype=torch.float32,
                output_loading_info=True,
            )  # fmt: skip
    except ModelError:
        raise
    except Exception as error:  # whatever odd files lead the library to
        raise ModelError([f"{subject}: the weights cannot be loaded: {_reason(error)}"]) from None
    # Not the folder in this machine's cache, which would be saved with the model.
    model.config._name_or_path = spec.name
    return model, sorted(report["missing_keys"])


def _named(labels: tuple[str, ...]) -> dict[str, Any]:
    id2label = dict(enumerate(labels))
    return {"id2label": id2label, "label2id": {label: index for index, label in id2label.items()}}


def _fit_head(weights: dict[str, torch.Tensor], head: Head | None, num_labels: int) -> None:
    """Put the classifier's rows in the order of the labels, or leave it out to be made anew."""
    for name in {"classifier.weight", "classifier.bias"} & weights.keys():
        if head is None:
            if len(weights[name]) != num_labels:
                rows = len(weights[name])
                raise ValueError(f"{name} has {rows} rows, config.json names {num_labels} labels")
        elif head.rows is None:
            del weights[name]
        else:
            weights[name] = weights[name][list(head.rows)]


def _fit_positions(weights: dict[str, torch.Tensor], config: ViTConfig, spec: ModelSpec) -> None:
    """Interpolate the position embeddings to another image size, as the library itself does."""
    from transformers.models.vit.modeling_vit import ViTEmbeddings

    name = next(key for key in weights if key.endswith("embeddings.position_embeddings"))
    with torch.no_grad():
        embeddings = ViTEmbeddings(config)
        embeddings.position_embeddings = torch.nn.Parameter(weights[name].float())
        like = torch.empty(1, spec.tokens, spec.hidden_size)
        size = spec.image_size
        weights[name] = embeddings.interpolate_pos_encoding(like, size, size).clone()


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
