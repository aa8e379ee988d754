"""Small folders of images, and what is read of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.source import ImageSource, open_source
from vit_colossal.errors import DataError


def put(root: Path, *folders: str, count: int = 4) -> Path:
    """So many images in each folder."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image = Image.new("RGB", (4, 4), (number, len(folder), 0))
            image.save(root / folder / f"{number:03}.png")
    return root


def classes(root: Path, *splits: str, names: tuple[str, ...] = ("cat", "dog")) -> Path:
    return put(root, *(f"{split}/{name}" for split in splits for name in names))


def read(root: Path, **options: Any) -> ImageSource:
    """As training reads it."""
    return open_source(SourceRequest(str(root), **{"keep_test": True, **options}))


def problems(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(root, **options)
    assert all("\n" not in problem for problem in caught.value.problems)
    return "\n".join(caught.value.problems)


def sizes(source: ImageSource) -> tuple[int, int]:
    return len(source.train), len(source.evaluation)


def as_snapshot(folder: Path, repository: Path) -> Path:
    """A folder as the hub's cache keeps a repository: names that are links to contents.

    Args:
        folder: what is in the repository.
        repository: the cache of it, which is made.
    """
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    blobs.mkdir(parents=True)
    for file in folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            blob = blobs / hashlib.sha256(content).hexdigest()
            blob.write_bytes(content)
            name = snapshot / file.relative_to(folder)
            name.parent.mkdir(parents=True, exist_ok=True)
            name.symlink_to(os.path.relpath(blob, name.parent))
    return snapshot
