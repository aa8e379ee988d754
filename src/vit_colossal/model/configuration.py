"""The configuration and the class of a model, as transformers builds it from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vit_colossal.errors import ModelError
from vit_colossal.families.family import Family
from vit_colossal.plan.model_files import read_config
from vit_colossal.plan.model_spec import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

#: Keys that say in which form a model answers, and by which kernels; no word of what it computes.
#: They are another program's wishes: what is saved has transformers' defaults. Those of labels are
#: set anew.
_FORM_OF_OUTPUTS = (
    *("return_dict", "use_return_dict", "torchscript", "output_attentions"),
    *("output_hidden_states", "attn_implementation", "_attn_implementation"),
)
_LABELS = ("num_labels", "id2label", "label2id", "problem_type")


def classifier_of(row: Family) -> type[PreTrainedModel]:
    """The class that ``AutoModelForImageClassification`` takes, or this project's own."""
    found: type[PreTrainedModel] = getattr(import_module(row.module), row.classifier)
    return found


def configuration_of(spec: ModelSpec, labels: tuple[str, ...]) -> PreTrainedConfig:
    """The configuration of a classifier of images with these labels.

    Raises:
        ModelError: a pretrained model's cannot be read or is none of its family.
    """
    row, values = spec.family, dict[str, Any]()
    if spec.pretrained:
        dropped = {*_FORM_OF_OUTPUTS, *_LABELS}
        values = {
            k: v for k, v in read_config(spec.name, weights=False).items() if k not in dropped
        }
    changes = {**spec.overrides, **dict.fromkeys(row.switched_off)}
    if row.nested:
        values[row.nested] = {
            k: v for k, v in row.encoder_values(values).items() if k not in _FORM_OF_OUTPUTS
        }
        values.pop(f"{row.nested}_dict", None)
    if row.drop_path is not None:
        changes["drop_path_rate"] = spec.drop_path
    try:
        with quiet():
            config = classifier_of(row).config_class.from_dict(
                {**row.with_values(values, changes), **_named(labels)}
            )
    except Exception as error:  # whatever an odd configuration leads the library to
        raise ModelError([f"--model {spec.name}: config.json: {reason_of(error)}"]) from None
    # Set once, here: the model would otherwise guess it from the first labels it sees.
    config.problem_type = "single_label_classification"
    return config


def blueprint(
    spec: ModelSpec,
    image_size: int,
    num_labels: int = 2,
    *,
    layers: int | None = None,
    device: str = "meta",
) -> PreTrainedModel:
    """A model without memory: the names and shapes of its weights; elsewhere with random ones.

    Args:
        spec: the model.
        image_size: that its position embeddings are for.
        num_labels: of its head.
        layers: of its encoder; None is all.
        device: PyTorch's name of where it lies.

    Raises:
        ModelError: transformers cannot build it.
    """
    import torch

    config = configuration_of(spec, tuple(map(str, range(num_labels))))
    row = spec.family
    encoder = getattr(config, row.nested) if row.nested else config
    encoder.image_size = image_size
    if layers is not None:
        encoder.num_hidden_layers = layers
    try:
        with torch.device(device), quiet():
            return classifier_of(row)(config)
    except Exception as error:  # whatever sizes lead the library to
        raise ModelError(
            [
                f"--model {spec.name}: transformers builds no model of its config.json "
                f"({reason_of(error)})"
            ]
        ) from None


def reason_of(error: Exception) -> str:
    """The first line of what a library says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _named(labels: tuple[str, ...]) -> dict[str, Any]:
    id2label = dict(enumerate(labels))
    return {"id2label": id2label, "label2id": {label: index for index, label in id2label.items()}}


@contextmanager
def quiet() -> Iterator[None]:
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
