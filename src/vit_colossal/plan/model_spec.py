"""What is known of a model before any framework is imported: its shape, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vit_colossal.errors import ModelError
from vit_colossal.families.activations import ACTIVATIONS, activation_problem
from vit_colossal.families.family import Family
from vit_colossal.families.refused import type_problem
from vit_colossal.families.shapes import Shape, Values
from vit_colossal.families.table import family
from vit_colossal.plan.channels import MODES, channels_problem
from vit_colossal.plan.model_files import fixed_size, is_local, read_config

#: The family of the presets.
DEFAULT_TYPE = "vit"

#: ViTConfig keys of the presets. tiny to large are the standard sizes (Dosovitskiy et al. 2021,
#: table 1; Touvron et al. 2021 for tiny and small); micro is ours, for small images on a CPU.
#: Its initializer_range is near 1 / sqrt(64), which keeps the scale of the activations; ViT's 0.02
#: is meant for widths of 768 and up, and learns digits several times slower.
PRESETS: dict[str, dict[str, Any]] = {
    "vit-micro": {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 16,
        "patch_size": 4,
        "initializer_range": 0.1,
    },
    "vit-tiny": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3},
    "vit-small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "vit-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "vit-large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
}


_SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("intermediate_size", "image_size", "patch_size"),
)

#: ViTConfig keys that shape a model, and what each takes.
_KEYS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **{
        key: ("a positive integer", lambda value: type(value) is int and value > 0)
        for key in _SIZES
    },
    **{
        key: ("a share from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1)
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob")
    },
    **{
        key: ("a positive number", lambda value: _is_number(value) and value > 0)
        for key in ("initializer_range", "layer_norm_eps")
    },
    "hidden_act": ("the name of a function", lambda value: isinstance(value, str)),
    "qkv_bias": ("true or false", lambda value: isinstance(value, bool)),
    "num_channels": (
        "1 for grey images, 3 for RGB, 2 and 4 for these with transparency",
        lambda value: type(value) is int and value in MODES,
    ),
}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _override_problems(overrides: dict[str, Any]) -> list[str]:
    """``--model-config`` entries that ViT does not have or cannot be built with."""
    problems = []
    for key, value in overrides.items():
        if key not in _KEYS:
            problems.append(f"--model-config {key}={value}: no such key, only {', '.join(_KEYS)}")
        elif not _KEYS[key][1](value):
            problems.append(f"--model-config {key}={value!r}: must be {_KEYS[key][0]}")
    return problems


@dataclass(frozen=True)
class ModelSpec:
    """What a model is before it is built.

    Attributes:
        name: what ``--model`` said.
        pretrained: weights come from a directory or the hub, not from a seed.
        model_type: transformers' name of its family.
        shape: the sizes of its encoder.
        image_size: side of the images that it gets, in pixels.
        weights_image_size: the image size that its weights are made for.
        overrides: keys of the encoder's configuration: of a model trained from scratch all, of
            another ``image_size`` at most.
        drop_path: the rate of dropped residual paths: what was asked for, else what its
            configuration says.
        switched_off: what its configuration asks for and is not done: keys with their values.
    """

    name: str
    pretrained: bool
    model_type: str
    shape: Shape
    image_size: int
    weights_image_size: int
    overrides: dict[str, Any] = field(default_factory=dict)
    drop_path: float = 0.0
    switched_off: tuple[str, ...] = ()

    @property
    def family(self) -> Family:
        """What is special about it."""
        return family(self.model_type)

    @property
    def tokens(self) -> int:
        """Sequence length: patches, and tokens beside them."""
        return (self.image_size // self.shape.patch_size) ** 2 + self.shape.extra_tokens

    @property
    def resized(self) -> bool:
        """Whether images have another size than those that the weights were trained on."""
        return self.image_size != self.weights_image_size

    @property
    def embedded_size(self) -> int:
        """The image size that its position embeddings have.

        A model that interpolates them in each pass keeps those of its weights.
        """
        own = self.family.sizes == "interpolates"
        return self.weights_image_size if own else self.image_size

    def identity(self) -> dict[str, Any]:
        """What a checkpoint's model has to agree on, as JSON."""
        shape = self.shape
        found = {
            "hidden_size": shape.hidden_size,
            "num_layers": shape.num_layers,
            "num_heads": shape.num_heads,
            "intermediate_size": shape.intermediate_size,
            "image_size": self.image_size,
            "patch_size": shape.patch_size,
        }
        # Checkpoints of the time when there were no others say nothing of it.
        found |= {"num_channels": shape.channels} if shape.channels != 3 else {}
        if self.model_type == DEFAULT_TYPE:  # checkpoints of the time when there was no other
            return found
        stages = [[stage.depth, stage.width, stage.heads] for stage in shape.stages]
        more = {"gated": shape.gated, "window": shape.window, "stages": stages}
        return {"model_type": self.model_type, **found, "tokens": self.tokens, **more}


def read_spec(name: str, overrides: dict[str, Any], *, weights: bool = True) -> ModelSpec:
    """Find the model's shape from a preset, a directory's or a hub repository's ``config.json``.

    Args:
        name: of the preset, the directory or the repository.
        overrides: ViTConfig keys for a preset.
        weights: a directory has to hold some too; a run keeps its own in the checkpoints.

    Raises:
        ModelError: no such model, of no family, or overrides that it cannot have.
    """
    if problems := _override_problems(overrides):
        raise ModelError(problems)
    if is_preset(name):
        values = {**PRESETS[name], **overrides}
        values.setdefault("intermediate_size", 4 * values["hidden_size"])
        return _spec(name, {**values, "model_type": DEFAULT_TYPE}, values, pretrained=False)
    if shaping := [key for key in overrides if key != "image_size"]:
        raise ModelError(
            [
                f"--model-config {' '.join(shaping)} is for presets: "
                f"--model {name} brings its own configuration"
            ]
        )
    values = _config_of(name, weights=weights)
    if problem := type_problem(values):
        raise ModelError([f"--model {name} {problem}"])
    return _spec(name, values, overrides, pretrained=True)


def is_preset(name: str) -> bool:
    """Whether a name is a preset's, and no folder of that name is here."""
    return name in PRESETS and not Path(name).is_dir()


def read_labels(name: str) -> tuple[str, ...]:
    """The label names that a directory's or a hub repository's ``config.json`` lists, in order.

    Raises:
        ModelError: it cannot be read, lists none, or the model does not give one label per image.
    """
    values = _config_of(name)
    problem_type = values.get("problem_type")
    if problem_type not in (None, "single_label_classification"):
        raise ModelError(
            [
                f"--model {name}: its problem_type is {problem_type!r}: only models that give each "
                "image one label are read; fine-tune it first (vit-colossal train --model ...)"
            ]
        )
    labels = labels_in(values)
    if labels is None or len(labels) < 2:
        raise ModelError([f"--model {name}: config.json has no id2label that names its labels"])
    return labels


def stored_labels(name: str) -> tuple[str, ...] | None:
    """The label names in a model's ``config.json``, of whatever kind; None if it names none.

    Raises:
        ModelError: it cannot be read.
    """
    return labels_in(_config_of(name))


def labels_in(values: dict[str, Any]) -> tuple[str, ...] | None:
    """The names in a configuration's ``id2label``, in order; None unless 0, 1, 2 … all have one."""
    named = values.get("id2label")
    if not isinstance(named, dict) or not named:
        return None
    labels = [named.get(str(index)) for index in range(len(named))]
    return tuple(map(str, labels)) if all(isinstance(label, str) for label in labels) else None


def _spec(name: str, values: Values, overrides: dict[str, Any], *, pretrained: bool) -> ModelSpec:
    row = family(values["model_type"])
    shape, stored = row.shape_of(name, values), row.image_size_of(name, values)
    activation = row.encoder_values(values).get("hidden_act", ACTIVATIONS[0])
    problems = channels_problem(shape.channels), activation_problem(activation)
    if any(problems):
        raise ModelError([f"--model {name}: {problem}" for problem in problems if problem])
    if shape.hidden_size % shape.num_heads:
        raise ModelError(
            [
                f"--model {name}: hidden_size {shape.hidden_size} is not divisible by "
                f"{shape.num_heads} attention heads"
            ]
        )
    asked = overrides.get("image_size")
    size = _image_size(name, row, shape, stored, asked if pretrained else stored)
    # A model that interpolates by itself keeps the size that its position embeddings are for.
    resized = {"image_size": size} if size != stored and row.sizes != "interpolates" else {}
    own = row.encoder_values(values)
    rate = own.get("drop_path_rate", row.drop_path)
    off = {key: own.get(key, row.defaults.get(key)) for key in row.switched_off}
    return ModelSpec(
        name=name,
        pretrained=pretrained,
        model_type=values["model_type"],
        shape=shape,
        image_size=size,
        weights_image_size=stored,
        overrides=resized if pretrained else overrides,
        drop_path=float(rate) if row.drop_path is not None and _is_number(rate) else 0.0,
        switched_off=tuple(f"{key} {value}" for key, value in off.items() if value is not None),
    )


def _image_size(name: str, row: Family, shape: Shape, stored: int, asked: int | None) -> int:
    """The side of the images: what was asked for, what the processor gives, or the weights'."""
    size = asked or stored
    if row.sizes in ("interpolates", "any"):
        size = asked or fixed_size(name) or stored
    elif row.sizes == "own" and size != stored:
        raise ModelError(
            [
                f"--image-size {size}: a {row.title} is trained at its own size alone, here "
                f"{stored}: drop the flag"
            ]
        )
    for pixels in (stored, size):
        if pixels % shape.patch_size:
            nearest = max(1, round(pixels / shape.patch_size)) * shape.patch_size
            raise ModelError(
                [
                    f"--model {name}: image_size {pixels} is not divisible by "
                    f"patch_size {shape.patch_size}: the nearest is {nearest}"
                ]
            )
    halved = shape.patch_size * 2 ** (len(shape.depths) - 1)
    smallest = halved * (shape.window if row.whole_windows else 1)
    if size < smallest:
        raise ModelError(
            [
                f"--model {name}: images of {size} px are too small for its {len(shape.depths)} "
                f"stages: --image-size {smallest} or more"
            ]
        )
    return size


def _config_of(name: str, *, weights: bool = True) -> dict[str, Any]:
    try:
        return read_config(name, weights=weights)
    except ModelError as error:
        if name.count("/") == 1 or is_local(name):
            raise
        presets = ", ".join(PRESETS)
        raise ModelError([f"{line}, or a preset ({presets})" for line in error.problems]) from None
