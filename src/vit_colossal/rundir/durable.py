"""Small files of a run that are there whole, or as they were before, whatever happens."""

from __future__ import annotations

import os
from pathlib import Path

from vit_colossal.checkpoints.files import sync


def write_durably(path: Path, text: str) -> None:
    """Write a file beside its place, force it to disk and rename it.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    unfinished = path.with_name(f".{path.name}.unfinished-{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        place_durably(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def place_durably(file: Path, path: Path) -> None:
    """Force a finished file to disk and give it its name, which may be taken by an older one.

    Raises:
        OSError: it cannot be done.
    """
    sync(file)
    os.replace(file, path)
    sync(path.parent)
