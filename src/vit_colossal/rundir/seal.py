"""What a run ended with, and whether it still is that: ``SHA256SUMS``, as sha256sum(1) reads it.

Checkpoints have manifests of their own. The model card is left out: people write in it.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from vit_colossal.checkpoints.files import sha256_of
from vit_colossal.durable import write_durably
from vit_colossal.errors import ConfigError
from vit_colossal.plan import run_folder

_SEALED = (*(run_folder.MODEL, run_folder.ADAPTER, run_folder.THUMBNAILS, run_folder.PREDICTIONS),)
_CARD = "README.md"
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def seal(run_dir: Path) -> None:
    """Write the hashes of the finished model and of the predictions.

    Raises:
        OSError: they cannot be written.
    """
    found = [path for name in _SEALED for path in _files(run_dir / name) if path.name != _CARD]
    lines = [f"{sha256_of(path)}  {path.relative_to(run_dir).as_posix()}\n" for path in found]
    write_durably(run_dir / run_folder.SUMS, "".join(lines))


def changes_since(run_dir: Path, *names: str) -> list[str]:
    """What of a finished run is no longer what it wrote: one line for each file.

    Args:
        run_dir: the run; of one that an earlier version wrote, nothing is known.
        names: only what lies at or below these.

    Raises:
        ConfigError: the file of the hashes is damaged.
    """
    sums = run_dir / run_folder.SUMS
    try:
        lines = sums.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{sums}: unreadable ({error})"]) from None
    problems = []
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None or not _is_inside(match[2]):
            raise ConfigError([f"{sums}: line {number} is no hash and file: restore or delete it"])
        expected, name = match.groups()
        if names and name.partition("/")[0] not in names:
            continue
        path = run_dir / name
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif sha256_of(path) != expected:
            problems.append(f"{path} was changed after it was written (SHA-256 differs)")
    advice = f"restore it, or delete {sums} to take it as it is"
    return [f"{problem}: {advice}" for problem in problems]


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _files(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
