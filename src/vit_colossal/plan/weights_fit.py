"""Whether a pretrained model's weights are those that its configuration promises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vit_colossal.errors import ModelError
from vit_colossal.plan.model_files import model_folder, weight_files
from vit_colossal.plan.model_spec import ModelSpec
from vit_colossal.plan.weight_names import plain_names, published

_FLOATS = ("F64", "F32", "F16", "BF16")


def check_weights(spec: ModelSpec) -> None:
    """Read a pretrained model's weights and compare them with its configuration.

    A loader would fill what is missing with random numbers, leave out what it does not know, and
    take numbers that are none.

    Raises:
        ModelError: weights are missing, of another shape or type, not finite, or unreadable.
    """
    if not spec.pretrained:
        return
    wrong = _wrong(spec, stored_shapes(spec.name))
    if wrong:
        more = f" (and {len(wrong) - 2} more)" if len(wrong) > 2 else ""
        raise ModelError(
            [
                f"--model {spec.name}: its weights do not fit its config.json: "
                f"{'; '.join(wrong[:2])}{more}: fetch both from one place"
            ]
        )
    _require_finite(spec.name)


def stored_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's stored weights, from the headers alone.

    Args:
        name: what ``--model`` said.

    Returns:
        By published name, without what a training wrapper put in front.

    Raises:
        ModelError: weights are unreadable, of another type, or two have one name.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(name, model_folder(name)):
        with _opened(name, file) as weights:
            for key in weights.keys():  # noqa: SIM118 - it is no mapping
                part = weights.get_slice(key)
                if part.get_dtype() not in _FLOATS:
                    kind = part.get_dtype()
                    reason = f"{key} is of type {kind}, not one of {', '.join(_FLOATS)}"
                    raise ModelError([f"--model {name}: {file.name}: {reason}"])
                shapes[key] = tuple(part.get_shape())
    try:
        return {published(new): shapes[key] for key, new in plain_names(shapes).items()}
    except ValueError as error:
        raise ModelError([f"--model {name}: its weights: {error}"]) from None


def _require_finite(name: str) -> None:
    for file in weight_files(name, model_folder(name)):
        with _opened(name, file) as weights:
            for key in weights.keys():  # noqa: SIM118 - it is no mapping
                tensor = weights.get_tensor(key)
                bad = tensor.numel() - int(tensor.isfinite().sum())
                if bad:
                    reason = f"{key} has {bad} of {tensor.numel()} numbers that are not finite"
                    raise ModelError(
                        [f"--model {name}: {file.name}: {reason}: take another checkpoint of it"]
                    )


@contextmanager
def _opened(name: str, file: Path) -> Iterator[Any]:
    """A file of weights, mapped into memory."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as weights:
            yield weights
    except (OSError, SafetensorError) as error:
        raise ModelError(
            [f"--model {name}: {file.name} cannot be read ({error}): fetch it again"]
        ) from None


def _wrong(spec: ModelSpec, stored: dict[str, tuple[int, ...]]) -> list[str]:
    """How the weights differ from the configuration, half a sentence each."""
    shapes = {key.removeprefix("vit."): shape for key, shape in stored.items()}
    layers = {match[1] for key in shapes if (match := re.match(r"encoder\.layer\.(\d+)\.", key))}
    if not layers:
        return [
            f"they are named like {next(iter(stored), 'nothing')!r}, where a ViT's are named like "
            "'vit.encoder.layer.0.layernorm_before.weight'"
        ]
    if len(layers) != spec.num_layers:
        return [f"they have {len(layers)} layers, num_hidden_layers is {spec.num_layers}"]
    return [
        f"{key} is {list(shapes[key]) if key in shapes else 'missing'}, not {list(shape)}"
        for key, shape in _shapes(spec).items()
        if shapes.get(key, shape if _is_optional(key) else ()) != shape
    ]


def _is_optional(key: str) -> bool:
    """The biases that ``qkv_bias: false`` leaves out."""
    return re.search(r"(query|key|value)\.bias$", key) is not None


def _shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every weight of a ViT's backbone, by transformers' names."""
    hidden, inner, patch = spec.hidden_size, spec.intermediate_size, spec.patch_size
    positions = (spec.weights_image_size // patch) ** 2 + 1
    linear = {
        **{f"attention.attention.{part}": (hidden, hidden) for part in ("query", "key", "value")},
        "attention.output.dense": (hidden, hidden),
        "intermediate.dense": (inner, hidden),
        "output.dense": (hidden, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, hidden),
        "embeddings.position_embeddings": (1, positions, hidden),
        "embeddings.patch_embeddings.projection.weight": (hidden, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (hidden,),
    }
    for layer in range(spec.num_layers):
        start = f"encoder.layer.{layer}"
        for part, shape in linear.items():
            shapes[f"{start}.{part}.weight"] = shape
            shapes[f"{start}.{part}.bias"] = shape[:1]
        for norm in ("layernorm_before", "layernorm_after"):
            shapes[f"{start}.{norm}.weight"] = shapes[f"{start}.{norm}.bias"] = (hidden,)
    shapes["layernorm.weight"] = shapes["layernorm.bias"] = (hidden,)
    return shapes
