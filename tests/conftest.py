"""What all tests share: where they cache, a small real data set, and small file systems."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vit_colossal.runtime.interpreter import keep_threads_awake

sys.path.insert(0, str(Path(__file__).parent / "distributed"))
# As each command does, before PyTorch is imported: they start others with what they have.
keep_threads_awake()
# One thread, as in every process that the tests start; read when PyTorch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# PyTorch's compiler would start processes of its own in the middle of a test that counts them.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
# Read once, by what imports the hub's client first: tests that fetch have a hub of their own.
os.environ["HF_HUB_OFFLINE"] = "1"

#: Where decoded images and Hugging Face's copies of data files go.
CACHES = ("VIT_COLOSSAL_CACHE", "HF_DATASETS_CACHE")
TRAIN_IMAGES, EVAL_IMAGES = 200, 133


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the user's caches alone."""
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
    parts = {"train": slice(TRAIN_IMAGES), "validation": slice(TRAIN_IMAGES, count)}
    for split, part in parts.items():
        images = [Image.fromarray(image) for image in pixels[part]]
        rows = {"image": images, "label": labels[part]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of the given size, such as ``4m``; gone after the test."""
    disk = tmp_path / "disk"

    def mount(size: str) -> Path:
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a tmpfs needs root")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", str(disk)], check=True)
