"""A zip archive of a data set's folder: unpacked once, below the cache, and read as the folder."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from vit_colossal.data.sources.fingerprint import content_of
from vit_colossal.data.sources.problems import listed
from vit_colossal.data.sources.scan import scan
from vit_colossal.data.sources.system_files import is_left_by_system
from vit_colossal.durable import remove
from vit_colossal.errors import DataError
from vit_colossal.text import cell

logger = logging.getLogger("vit_colossal")

#: What an archive may hold without a look at its own size, in bytes.
_MODEST = 2**30
#: Beyond that, how many times its own size. Images hardly shrink; archives made to fill disks do.
_MOST_TIMES = 100
_ENCRYPTED = 0x1
_LONGEST_NAME = 255
_UTF8 = 0x800
_DRIVE = re.compile(r"[A-Za-z]:")

_Members = dict[PurePosixPath, zipfile.ZipInfo]


def is_zip(path: Path) -> bool:
    """Whether a data set is a zip archive, by its name."""
    return path.suffix.lower() == ".zip" and os.path.isfile(path)


def packed_folder(folder: Path) -> Path:
    """The folder that was packed: the only one in an archive, where others are in it; or all of it.

    Args:
        folder: Where the archive was unpacked.
    """
    root = scan(folder).root
    alone = list(root.folders.values())
    wraps = len(alone) == 1 and not (root.images or root.others)
    return alone[0].path if wraps and alone[0].filled and not alone[0].images else folder


def unpacked(path: Path, memory: Path) -> Path:
    """The folder that an archive's files lie in; they are unpacked where they are not there yet.

    It is named by the archive's content: another archive of the same name is another folder.
    Several processes may ask at once: one of them unpacks.

    Args:
        path: The archive.
        memory: The cache; the folder is made below it.

    Raises:
        DataError: It is damaged, or holds what is not written to this machine: members that lie
            outside of it, links, encrypted ones, or far more than its size.
        OSError: A file cannot be read or written.
    """
    from filelock import FileLock

    digest = content_of(path.resolve().parent, [path.resolve()], memory)
    folder = memory / "unpacked" / digest[:32]
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
            if _is_whole(folder, members):
                return folder
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):
                if not _is_whole(folder, members):
                    _require_room(path, members, folder.parent)
                    _unpack(archive, members, folder)
    # zipfile raises RuntimeError, or one of its kind, for what it cannot unpack.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        reason = cell(str(error) or type(error).__name__)
        what = "no zip archive, or a damaged one"
        raise DataError([f"--dataset {path}: {what} ({reason})"]) from error
    return folder


def _members(path: Path, archive: zipfile.ZipFile) -> _Members:
    """The files of an archive by their places in it, without what systems leave.

    Raises:
        DataError: Some are refused; each is named.
    """
    found: _Members = {}
    problems = []
    for info in archive.infolist():
        name = _name(info)
        place = PurePosixPath(name)
        if any(map(is_left_by_system, place.parts)) and ".." not in place.parts:
            continue
        if problem := _problem(info, name) or (place in found and "is in it twice"):
            problems.append(f"--dataset {path}: {cell(name)} {problem}")
        elif not name.endswith("/"):
            found[place] = info
    if problems:
        raise DataError(listed([*problems, f"--dataset {path}: unpack it, and name the folder"]))
    if not found:
        raise DataError([f"--dataset {path}: there are no files in it"])
    total = sum(info.file_size for info in found.values())
    size = os.path.getsize(path)
    if total > max(_MODEST, _MOST_TIMES * size):
        raise DataError(
            [
                f"--dataset {path}: its {size / 2**20:.1f} MiB would become "
                f"{total / 2**30:.1f} GiB, far more than images do; if they are right, unpack it "
                "and name the folder"
            ]
        )
    return found


def _name(info: zipfile.ZipInfo) -> str:
    """A member's name. Without a mark for UTF-8 it is in code page 437 by the format's letter; many
    programs write UTF-8 all the same, which names in that code page hardly ever look like."""
    name = info.filename
    if not info.flag_bits & _UTF8:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")  # some programs of Windows


def _problem(info: zipfile.ZipInfo, name: str) -> str | None:
    """Why a member is not written to this machine."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if name.startswith("/") or _DRIVE.match(name) or ".." in PurePosixPath(name).parts:
        return "would lie outside of the archive"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link" if kind == stat.S_IFLNK else "is no file"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in PurePosixPath(name).parts):
        return f"has a name of more than {_LONGEST_NAME} bytes"
    return None


def _is_whole(folder: Path, members: _Members) -> bool:
    """Whether all files lie there, with the sizes that they have in the archive."""
    try:
        return all(
            os.path.getsize(folder / place) == info.file_size for place, info in members.items()
        )
    except OSError:
        return False


def _require_room(path: Path, members: _Members, parent: Path) -> None:
    total, free = sum(info.file_size for info in members.values()), shutil.disk_usage(parent).free
    if total > free:
        raise DataError(
            [
                f"--dataset {path}: unpacked it takes {total / 2**30:.1f} GiB, and {parent} has "
                f"{free / 2**30:.1f} GiB left: make room, or name another --cache-dir"
            ]
        )


def _unpack(archive: zipfile.ZipFile, members: _Members, folder: Path) -> None:
    """Write all files, and put the folder in its place at once."""
    logger.info("unpacking %s into %s", archive.filename, folder)
    _require_no_file_as_folder(members)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, suffix=".partial"))
    try:
        for place, info in members.items():
            target = unfinished / place
            target.parent.mkdir(parents=True, exist_ok=True)
            # Never more bytes than the archive says, and with its checksum.
            with archive.open(info) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file, 2**20)
                if file.tell() != info.file_size:
                    raise zipfile.BadZipFile(f"{place} is shorter than it says")
        remove(folder)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _require_no_file_as_folder(members: Iterable[PurePosixPath]) -> None:
    places = set(members)
    both = Counter(parent for place in places for parent in place.parents if parent in places)
    if both:
        raise zipfile.BadZipFile(f"{next(iter(both))} is a file and a folder")
