"""Do the installed packages fit together, as far as this project needs them?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from typing import Any

#: Whose requirements matter when the project runs from a checkout that is not installed.
_ROOTS = ("colossalai", "transformers", "datasets", "torch", "torchvision")


@dataclass(frozen=True)
class Clash:
    """A requirement that is not met.

    Attributes:
        package: what is required.
        wanted: versions that would do, as in ``==4.51.3``.
        by: who requires it.
        installed: the version that is there; None when there is none.
    """

    package: str
    wanted: str
    by: str
    installed: str | None

    @property
    def missing(self) -> bool:
        return self.installed is None

    @property
    def fix(self) -> str:
        return f"pip install '{self.package}{self.wanted}'"

    def __str__(self) -> str:
        state = "is missing" if self.installed is None else f"is {self.installed}"
        return f"{self.package} {state}, {self.by} needs {self.package}{self.wanted}"


def clashes(root: str = "vit_colossal") -> list[Clash]:
    """What is required by ``root``, directly or not, and is not there in a fitting version.

    Markers and extras are taken into account. Without the package ``packaging``, which pip and
    transformers bring, nothing can be compared and only that is said.
    """
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [Clash("packaging", "", "this check", None)]
    pending: list[tuple[str, frozenset[str]]] = [(root, frozenset())]
    if _distribution(root) is None:
        pending = [(name, frozenset()) for name in _ROOTS]
    seen: set[tuple[str, frozenset[str]]] = set()
    found: dict[str, Clash] = {}
    while pending:
        item = pending.pop()
        distribution = _distribution(item[0])
        if item in seen or distribution is None:
            continue
        seen.add(item)
        for line in distribution.requires or ():
            wanted = Requirement(line)
            if not _applies(wanted, item[1]):
                continue
            pending.append((wanted.name, frozenset(wanted.extras)))
            there = _distribution(wanted.name)
            version = None if there is None else there.version
            if version is None or not wanted.specifier.contains(version, prereleases=True):
                by = f"{item[0]} {distribution.version}"
                found.setdefault(line, Clash(wanted.name, str(wanted.specifier), by, version))
    return sorted(found.values(), key=lambda clash: (not clash.missing, clash.package))


def pinned(name: str, root: str = "vit_colossal") -> str:
    """What to hand to pip for ``name``: with the versions that ``root`` asks for, if it does."""
    distribution = _distribution(root)
    lines = distribution.requires or () if distribution is not None else ()
    wanted = [line.partition(";")[0].strip() for line in lines]
    named = [line for line in wanted if re.fullmatch(rf"{re.escape(name)}\s*([<>=!~(].*)?", line)]
    return named[0] if named else name


def _distribution(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def _applies(wanted: Any, extras: frozenset[str]) -> bool:
    if wanted.marker is None:
        return True
    return any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras))
