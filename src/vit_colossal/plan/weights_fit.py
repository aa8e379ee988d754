"""Whether a pretrained model's weights are those that its configuration promises."""

from __future__ import annotations

import re

from vit_colossal.errors import ModelError
from vit_colossal.plan.model_files import model_folder, weight_files
from vit_colossal.plan.model_spec import ModelSpec
from vit_colossal.plan.weight_names import published, wrapper_prefix

_FLOATS = ("F64", "F32", "F16", "BF16")


def check_weights(spec: ModelSpec) -> None:
    """Read the headers of a pretrained model's weights and compare them with its configuration.

    A loader would fill what is missing with random numbers, and leave out what it does not know.

    Raises:
        ModelError: weights are missing, of another shape or type, or unreadable.
    """
    from safetensors import SafetensorError, safe_open

    if not spec.pretrained:
        return
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(spec.name, model_folder(spec.name)):
        try:
            with safe_open(file, framework="numpy") as weights:
                for key in weights.keys():  # noqa: SIM118 - it is no mapping
                    part = weights.get_slice(key)
                    if part.get_dtype() not in _FLOATS:
                        kind = part.get_dtype()
                        reason = f"{key} is of type {kind}, not one of {', '.join(_FLOATS)}"
                        raise ModelError([f"--model {spec.name}: {file.name}: {reason}"])
                    shapes[key] = tuple(part.get_shape())
        except (OSError, SafetensorError) as error:
            raise ModelError(
                [f"--model {spec.name}: {file.name} cannot be read ({error}): fetch it again"]
            ) from None
    wrong = _wrong(spec, shapes)
    if wrong:
        more = f" (and {len(wrong) - 2} more)" if len(wrong) > 2 else ""
        raise ModelError(
            [
                f"--model {spec.name}: its weights do not fit its config.json: "
                f"{'; '.join(wrong[:2])}{more}: fetch both from one place"
            ]
        )


def _wrong(spec: ModelSpec, stored: dict[str, tuple[int, ...]]) -> list[str]:
    """How the weights differ from the configuration, half a sentence each."""
    prefix = wrapper_prefix(list(stored))
    shapes = {
        published(key.removeprefix(prefix)).removeprefix("vit."): shape
        for key, shape in stored.items()
    }
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
    linear = {
        **{f"attention.attention.{part}": (hidden, hidden) for part in ("query", "key", "value")},
        "attention.output.dense": (hidden, hidden),
        "intermediate.dense": (inner, hidden),
        "output.dense": (hidden, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, hidden),
        "embeddings.position_embeddings": (1, spec.tokens, hidden),
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
