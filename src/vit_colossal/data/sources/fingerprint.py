"""A digest of many files, hashed once and remembered while they do not change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# A file written again within its clock's resolution looks the same: younger ones are not trusted.
_SETTLED_SECONDS = 2.0

_Stamp = list[int]  # size, times of the last change of content and of anything, inode
_Known = dict[str, tuple[_Stamp, str]]  # by relative path: the stamp and the digest


def content_of(root: Path, files: Iterable[Path], memory: Path) -> str:
    """Digest the files' relative paths, sizes and contents.

    Reading a large data set takes minutes, and every process of every run needs its digest. So
    those of single files are kept, and used while size, times and inode are the same.

    Args:
        root: What the paths are relative to.
        files: Files below it.
        memory: Folder in which to keep the digests; not being able to write there is no problem.

    Returns:
        Hex SHA-256: equal for equal files on any machine.

    Raises:
        OSError: A file cannot be read.
    """
    place = memory / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.files.json"
    known = _recall(place)
    names = {file.relative_to(root).as_posix(): file for file in files}
    with ThreadPoolExecutor() as pool:
        found = dict(pool.map(lambda name: (name, _digest(names[name], known.get(name))), names))
    if any(known.get(name) != entry for name, entry in found.items()):
        _remember(place, found)
    digest = hashlib.sha256()
    for name in sorted(names, key=lambda name: names[name]):
        stamp, content = found[name]
        digest.update(f"{name}\0{stamp[0]}\0{content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _digest(file: Path, known: tuple[_Stamp, str] | None) -> tuple[_Stamp, str]:
    with file.open("rb") as stream:
        status = os.fstat(stream.fileno())
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        if known is not None and known[0] == stamp:
            return known
        return stamp, hashlib.file_digest(stream, "sha256").hexdigest()


def _recall(place: Path) -> _Known:
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
        return {name: (list(stamp), str(digest)) for name, (stamp, digest) in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(place: Path, found: _Known) -> None:
    """Replace the file at once, so that others read the old or the new one."""
    settled = time.time_ns() - int(_SETTLED_SECONDS * 1e9)
    kept = {name: entry for name, entry in found.items() if max(entry[0][1:3]) < settled}
    if not kept:
        return
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=place.parent, suffix=".partial")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(kept, stream)
            os.replace(name, place)
        except BaseException:
            os.unlink(name)
            raise
