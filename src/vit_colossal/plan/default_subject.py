"""The data and the model of a run that names none, and what to do where it cannot be fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import FetchError

#: For the built-in digits, on any device: trained from scratch in seconds.
SMALL = "vit-micro"
#: Pretrained ones for photos: of 5.7 M parameters, as a CPU bears, and of 86 M.
PRETRAINED = {"cpu": "facebook/deit-tiny-patch16-224", "cuda": "google/vit-base-patch16-224"}

_FILES = "config.json preprocessor_config.json model.safetensors"


def default_dataset(device: str) -> str:
    """What is trained on where nothing is named; ``device`` is cpu or cuda."""
    return "beans" if device == "cuda" else "digits"


def default_model(dataset: str, device: str) -> tuple[str, str]:
    """The model's name, and the line that says so.

    Args:
        dataset: what is trained on.
        device: cpu or cuda.
    """
    if dataset == "digits":
        return SMALL, f"no --model given: {SMALL} from scratch"
    name = PRETRAINED[device]
    return name, f"no --model given: {name}, pretrained ({device} default for photos)"


@contextmanager
def ways_on(config: TrainConfig) -> Iterator[None]:
    """Inside, a default model that cannot be had is an error that says what else can be done.

    Args:
        config: as it was asked for; with a model of its own nothing is changed.

    Raises:
        FetchError: the reason, and three ways on; before them a folder that is not here either.
    """
    try:
        yield
    except FetchError as error:
        if config.model is not None:
            raise
        raise FetchError([*_not_here(config.dataset), *_explained(error.problems)]) from error


def _not_here(dataset: str | None) -> list[str]:
    """A mistyped folder, which would be looked for where there is no way to."""
    if dataset is None or "/" in dataset or os.path.exists(dataset):
        return []
    return [f"--dataset {dataset}: no such file or folder here; the hub would be asked for it"]


def _explained(problems: list[str]) -> list[str]:
    """Lines that begin with blanks go on with the one before them."""
    name = next((name for name in PRETRAINED.values() if name in problems[0]), PRETRAINED["cpu"])
    folder = name.partition("/")[2]
    return [
        *problems,
        "  it was chosen as no --model is given; three ways on:",
        f"  1. on a machine with a network: hf download {name} {_FILES} --local-dir {folder}; "
        f"then copy the folder {folder} here (scp -r, or any disk) and add --model {folder}",
        "  2. --model DIRECTORY, with any pretrained model that is here already",
        "  3. --model vit-tiny, from scratch and without a network: needs about 2,000 photos or "
        "more; with fewer expect a weak model",
    ]
