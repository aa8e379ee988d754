"""Files that are there whole, or as they were before, whatever happens.

What is written is a new file that then takes its name. What had the name is replaced and never
opened: a link is not followed, and other names of the same file (``cp -al``) keep what they had.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def sync(path: Path) -> None:
    """Force a file or a folder's list of names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, mode: str = "", **how: Any) -> Iterator[Any]:
    """A new file beside ``path`` that takes its place when all went well.

    Args:
        path: the final place.
        mode: ``b`` for bytes; text is UTF-8.
        how: what `open` takes beside.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    unfinished = path.with_name(f".{path.name}.unfinished-{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    try:
        # Exclusively: whoever knew the name could have planted a link.
        with unfinished.open(f"x{mode}", encoding=None if mode else "utf-8", **how) as file:
            yield file
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_durably(path: Path, text: str) -> None:
    """Write a file beside its place, force it to disk and rename it.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    with replacing(path) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


@contextmanager
def filling(folder: Path, instead_of: str = "") -> Iterator[Path]:
    """An empty folder whose files go to ``folder`` when all went well; what else is there stays.

    Args:
        folder: made if missing; in the place of a link.
        instead_of: a pattern of older files there that go, if they are not written anew.

    Raises:
        OSError: it cannot be written.
    """
    prefix = f".{folder.name}.unfinished-"
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left_over in folder.parent.glob(f"{glob.escape(prefix)}*"):
        remove(left_over)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as unfinished:
        yield Path(unfinished)
        if folder.is_symlink():
            folder.unlink()
        folder.mkdir(exist_ok=True)
        files = sorted(Path(unfinished).iterdir())
        for file in files:
            place_durably(file, folder / file.name)
        older = {*folder.glob(instead_of)} if instead_of else set()
        for file in older - {folder / file.name for file in files}:
            remove(file)


def place_durably(file: Path, path: Path) -> None:
    """Force a finished file to disk and give it its name, which may be taken by an older one.

    Raises:
        OSError: it cannot be done.
    """
    sync(file)
    os.replace(file, path)
    sync(path.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there; of a link the link, not what it leads to.

    Raises:
        OSError: it cannot be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def open_no_link(name: str, flags: int) -> int:
    """What `open` takes as its ``opener`` for a file that is changed in its place.

    Raises:
        OSError: there is a link.
    """
    return os.open(name, flags | os.O_NOFOLLOW, 0o666)
