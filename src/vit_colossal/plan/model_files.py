"""A model's files, from a folder or the hub, checked before anything is built from them.

They are other people's files. Only JSON and safetensors are read, every weight has to have the
shape that the configuration promises, and no file may name another one outside of its folder.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_colossal.errors import ModelError
from vit_colossal.hub import fetch
from vit_colossal.plan.weight_names import published, wrapper_prefix

if TYPE_CHECKING:
    from vit_colossal.plan.model_spec import ModelSpec

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

#: Keys of a configuration with which a library would fetch code or other packages' weights.
_REFUSED_KEYS = {
    "auto_map": "code of its own, which is never run",
    "_attn_implementation_internal": "attention from elsewhere, which is never run",
    "quantization_config": "quantized weights, which are not read",
}
_FLOATS = ("F64", "F32", "F16", "BF16")


def is_local(name: str) -> bool:
    """Whether a model is a folder on this machine, which wins over a repository of that name."""
    return os.path.exists(name)  # unlike Path.exists it never raises


def read_config(name: str) -> dict[str, Any]:
    """The ``config.json`` of a folder or a hub repository.

    Raises:
        ModelError: there is none, it cannot be read, or it asks for more than a plain model.
    """
    path = Path(name)
    if is_local(name):
        file: Path | None = path / "config.json"
        if not (path / "config.json").is_file():
            raise ModelError([f"--model {name}: no config.json in it, so not a model directory"])
        if not any(path.glob("*.safetensors")):
            raise ModelError(
                [
                    f"--model {name}: no *.safetensors weights in it (pickles are not loaded): "
                    "save it again with a current transformers' save_pretrained"
                ]
            )
    else:
        file = fetch(name, "config.json")
    if file is None:
        raise ModelError([f"--model {name}: the repository has no config.json, so no model"])
    values = _read_json(name, file)
    problems = [
        f"--model {name}: config.json has {key!r}: {what}; choose a plain ViT"
        for key, what in _REFUSED_KEYS.items()
        if values.get(key)
    ]
    if problems:
        raise ModelError(problems)
    return values


def processor_folder(name: str) -> Path | None:
    """The folder with a model's ``preprocessor_config.json``; None if it has none.

    Raises:
        ModelError: it cannot be fetched.
    """
    if is_local(name):
        file: Path | None = Path(name) / "preprocessor_config.json"
    else:
        file = fetch(name, "preprocessor_config.json")
    return file.parent if file is not None and file.is_file() else None


def model_folder(name: str) -> Path:
    """The folder that holds a model's configuration and weights.

    Of a hub repository they are fetched, all from one commit: from a folder, `transformers` loads
    without the network.

    Raises:
        ModelError: something is missing, cannot be fetched, or leads out of the folder.
    """
    path = Path(name)
    if not is_local(name):
        config = fetch(name, "config.json")
        if config is None:
            raise ModelError([f"--model {name}: the repository has no config.json, so no model"])
        path = config.parent
    for file in weight_files(name, path):
        if not file.is_file():
            raise ModelError([f"--model {name}: {file.name} is missing"])
    if (path / "adapter_config.json").is_file():
        raise ModelError(
            [
                f"--model {name}: it is an adapter for another model (adapter_config.json): "
                "merge the two and save the result"
            ]
        )
    return path


def weight_files(name: str, folder: Path) -> list[Path]:
    """The safetensors files of a model, fetched if it is one of the hub's.

    Args:
        name: what ``--model`` said.
        folder: the folder; of a hub repository, that of the commit in the cache.

    Raises:
        ModelError: there are none, or the index names something else.
    """

    def find(file: str) -> Path | None:
        if is_local(name):
            return folder / file if (folder / file).is_file() else None
        return fetch(name, file, revision=folder.name)

    whole = find(WEIGHTS)
    if whole is not None:
        return [whole]
    index = find(INDEX)
    if index is None:
        raise ModelError(
            [f"--model {name}: it has no {WEIGHTS} and no {INDEX} (pickles are not loaded)"]
        )
    parts = _read_json(name, index).get("weight_map")
    files = sorted(set(map(str, parts.values()))) if isinstance(parts, dict) else []
    if not files:
        raise ModelError([f"--model {name}: {INDEX} names no files of weights"])
    for file in files:
        if file != Path(file).name or not file.endswith(".safetensors"):
            raise ModelError(
                [f"--model {name}: {INDEX} names {file!r}: only .safetensors files beside it"]
            )
    return [find(file) or folder / file for file in files]


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


def _read_json(name: str, file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError([f"--model {name}: {file.name} cannot be read ({error})"]) from None
    if not isinstance(values, dict):
        raise ModelError([f"--model {name}: {file.name} is not a JSON object"])
    return values
