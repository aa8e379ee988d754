"""One run at a time in a run directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vit_colossal.durable import open_no_link
from vit_colossal.errors import ConfigError

NAME = ".lock"
#: Another process holds it. File systems that cannot lock answer differently.
_HELD = (errno.EACCES, errno.EAGAIN)


def held_by(run_dir: Path) -> str | None:
    """Who is writing to a run directory; None if nobody is. Leaves no trace."""
    try:
        with open(run_dir / NAME, "r+", opener=open_no_link) as file:
            return None if _try_lock(file.fileno()) else file.read().strip() or "unknown"
    except OSError:
        return None


def in_use(run_dir: Path, holder: str) -> str:
    """What to say about it, in one line."""
    return (
        f"--output-dir {run_dir}: another run is writing to it ({holder}): wait for its end, or "
        "name another folder"
    )


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Make the run directory and keep other runs out of it until the end of the block.

    The system drops the lock when this process ends, in whatever way. It is a POSIX lock because
    that is not inherited: loader processes may outlive their parent for seconds.

    Raises:
        ConfigError: another run holds it, or the folder cannot be made or written to.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        # It is emptied below: a link would have another file emptied.
        file = open(run_dir / NAME, "a+", encoding="utf-8", opener=open_no_link)  # noqa: SIM115
    except OSError as error:
        is_link = (run_dir / NAME).is_symlink()
        reason = f"its {NAME} is a link" if is_link else error.strerror or str(error)
        raise ConfigError(
            [f"--output-dir {run_dir}: cannot be written to ({reason}): name another folder"]
        ) from None
    with file:
        file.seek(0)
        if not _try_lock(file.fileno()):
            raise ConfigError([in_use(run_dir, file.read().strip() or "unknown")])
        with contextlib.suppress(OSError):  # a full disk is for the checkpoints to report
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


def _try_lock(descriptor: int) -> bool:
    """Lock the file; False if another process has."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _HELD
    return True
