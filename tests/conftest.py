"""What all tests share: where they cache, and a small real data set with eleven labels."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "distributed"))

#: Where decoded images and Hugging Face's copies of data files go.
CACHES = ("VIT_COLOSSAL_CACHE", "HF_DATASETS_CACHE")
TRAIN_IMAGES, EVAL_IMAGES = 200, 133


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the user's caches alone, and keep this process to one thread."""
    import torch

    torch.set_num_threads(1)
    folders = {name: str(tmp_path_factory.mktemp(name)) for name in CACHES}
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in folders.items():
            patch.setenv(name, folder)
        yield


@pytest.fixture(scope="session")
def eleven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Handwritten digits and, as an eleventh label, digits with the colours inverted.

    Eleven labels are divided by no tensor-parallel degree; 133 images by no batch.
    """
    import datasets
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    values, targets = load_digits(return_X_y=True)
    count = TRAIN_IMAGES + EVAL_IMAGES
    pixels = np.round(values[:count].reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    labels = targets[:count].astype(np.int64)
    pixels[::11], labels[::11] = 255 - pixels[::11], 10
    names = [*(f"digit {digit}" for digit in range(10)), "inverted"]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    folder = tmp_path_factory.mktemp("eleven")
    parts = {"train": slice(TRAIN_IMAGES), "test": slice(TRAIN_IMAGES, count)}
    for split, part in parts.items():
        images = [Image.fromarray(image) for image in pixels[part]]
        rows = {"image": images, "label": labels[part]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder
