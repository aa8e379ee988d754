"""A model's files, from a folder or the hub, checked before anything is built from them.

They are other people's files. Only JSON and safetensors are read, every weight has to have the
shape that the configuration promises, and no file may name another one outside of its folder.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from vit_colossal.errors import ModelError
from vit_colossal.hub import fetch
from vit_colossal.plan import run_folder
from vit_colossal.text import json_object

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

#: Keys of a configuration with which a library would fetch code or other packages' weights.
_REFUSED_KEYS = {
    "auto_map": "code of its own, which is never run",
    "_attn_implementation_internal": "attention from elsewhere, which is never run",
    "quantization_config": "quantized weights, which are not read",
    "pruned_heads": "layers from which attention heads were cut, which are not built",
    "per_layer_config": "layers of different shapes, which are not built",
}


def is_local(name: str) -> bool:
    """Whether a model is a folder on this machine, which wins over a repository of that name."""
    return os.path.exists(name)  # unlike Path.exists it never raises


def read_config(name: str, *, weights: bool = True) -> dict[str, Any]:
    """The ``config.json`` of a folder or a hub repository.

    Args:
        name: the folder or the repository.
        weights: a folder has to hold some too.

    Raises:
        ModelError: there is none, it cannot be read, or it asks for more than a plain model.
    """
    path = Path(name)
    if is_local(name):
        file: Path | None = path / "config.json"
        if what := _not_a_model(path, weights=weights):
            raise ModelError([f"--model {name}: {what}"])
        if weights and not any(path.glob("*.safetensors")):
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


def _not_a_model(path: Path, *, weights: bool) -> str:
    """What a folder is instead of a model, and what to name; empty for a model."""
    if (path / run_folder.CONFIG).is_file():
        return f"it is a run: its model is {path / run_folder.MODEL}"
    above = path.parent
    if weights and path.name == run_folder.BASE and (above / run_folder.CONFIG).is_file():
        return f"a part of a run, without weights: its model is {above / run_folder.MODEL}"
    if (path / "config.json").is_file():
        return ""
    run = above.parent if above.name == run_folder.CHECKPOINTS else above
    if (run / run_folder.CONFIG).is_file():
        return f"a part of a run: export makes a model of it, vit-colossal export {path} DIRECTORY"
    return "no config.json in it, so not a model directory"


def processor_folder(name: str) -> Path | None:
    """The folder with a model's image processor, in either of its files; None if it has none.

    Raises:
        ModelError: it cannot be fetched.
    """
    for name_of_file in PROCESSOR_FILES:
        file = Path(name) / name_of_file if is_local(name) else fetch(name, name_of_file)
        if file is not None and file.is_file():
            return file.parent
    return None


def fixed_size(name: str) -> int | None:
    """The side of the square that a model's image processor gives; None if it leaves it open.

    Raises:
        ModelError: its file cannot be fetched or read.
    """
    folder = processor_folder(name)
    if folder is None:
        return None
    files = [folder / file for file in PROCESSOR_FILES if (folder / file).is_file()]
    values = _read_json(name, files[0])
    values = values.get("image_processor", values)
    cropped = isinstance(values, dict) and values.get("do_center_crop") and values.get("crop_size")
    size = cropped or (values.get("size") if isinstance(values, dict) else None)
    if isinstance(size, dict):
        sides = {size.get("height"), size.get("width")}
        # ConvNeXt's processor cuts a square with this side out.
        size = sides.pop() if len(sides) == 1 and sides != {None} else size.get("shortest_edge")
    return size if type(size) is int and 0 < size <= 65535 else None


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


def weights_digest(name: str) -> str:
    """SHA-256 of a model's weights, in all of their files.

    Args:
        name: the folder or the repository.

    Raises:
        ModelError: see `weight_files`.
    """
    digest = hashlib.sha256()
    for path in weight_files(name, model_folder(name)):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _read_json(name: str, file: Path) -> dict[str, Any]:
    try:
        return json_object(file.read_bytes())
    except OSError as error:
        raise ModelError([f"--model {name}: {file.name} cannot be read ({error})"]) from None
    except ValueError as error:
        raise ModelError([f"--model {name}: {file.name} {error}"]) from None
