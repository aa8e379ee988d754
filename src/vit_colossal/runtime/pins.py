"""Which ColossalAI this project runs with, and which of its requirements are passed over.

Both stand in ``colossalai.txt`` beside this file, which the scripts read as well. Nothing here
imports ColossalAI, nor anything else that may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from vit_colossal.errors import ConfigError

FILE = Path(__file__).with_name("colossalai.txt")

#: Needed, in a version that ColossalAI does not allow; not needed; not needed, and there or not.
KINDS = ("other-version", "left-out", "optional")


class PassedOver(NamedTuple):
    """A requirement of ColossalAI that is not met here.

    Attributes:
        kind: one of `KINDS`.
        package: its name, in lower case with hyphens.
        requirement: as ColossalAI writes it.
    """

    kind: str
    package: str
    requirement: str


@cache
def wanted_version() -> str:
    """The version of ColossalAI that everything here was tested with."""
    found = [line for line in _lines() if line.startswith("colossalai==")]
    return found[0].removeprefix("colossalai==")


@cache
def passed_over() -> tuple[PassedOver, ...]:
    """What ColossalAI requires and is not given here."""
    found = []
    for line in _lines():
        kind, _, requirement = line.partition(" ")
        if kind in KINDS:
            package = re.split(r"[^A-Za-z0-9._-]", requirement)[0]
            found.append(PassedOver(kind, plain_name(package), requirement))
    return tuple(found)


def install_command(*flags: str) -> str:
    """What installs ColossalAI without what it requires."""
    return " ".join(["pip install", *flags, f"--no-deps colossalai=={wanted_version()}"])


def colossalai_problems() -> list[str]:
    """Why nothing can be trained here as far as ColossalAI goes: one line, or none."""
    spec = find_spec("colossalai")
    # A folder that merely has its name has no file of its own.
    if spec is None or spec.origin is None:
        return [f"ColossalAI is not installed, and this needs it: {install_command()}"]
    try:
        version = metadata.version("colossalai")
    except metadata.PackageNotFoundError:  # a source tree on the path
        return []
    if version.partition("+")[0] == wanted_version():
        return []
    # Corrections of single lines of it decide whether results are the same.
    return [f"ColossalAI {version} is installed, and this needs another: {install_command()}"]


def require_colossalai(found: Sequence[str] = ()) -> None:
    """Raise ConfigError where ColossalAI cannot be used, before anything is read or started.

    Args:
        found: problems that are known already, to be shown too.
    """
    if problems := colossalai_problems():
        raise ConfigError([*problems, *found])


def plain_name(package: str) -> str:
    """A package's name as it is compared: ``galore_torch`` and ``galore-torch`` are the same."""
    return re.sub(r"[-_.]+", "-", package).lower()


def _lines() -> list[str]:
    lines = (line.strip() for line in FILE.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]
