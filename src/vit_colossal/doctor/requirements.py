"""Do the installed packages fit together, as far as this project needs them?

``python -m vit_colossal.doctor.requirements`` runs ``pip check`` and says whether it complains
about anything but what is passed over on purpose. Exit code 1 when it does, 2 when it does not run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from vit_colossal.errors import ExitCode
from vit_colossal.runtime.pins import (
    FILE,
    PassedOver,
    colossalai_problems,
    passed_over,
    plain_name,
)

#: What is required when the project runs from a checkout that is not installed.
_ROOTS = ("transformers", "datasets", "torch", "torchvision")

_MISSING = re.compile(r"(?P<by>\S+) \S+ requires (?P<wanted>\S+), which is not installed\.")
_OTHER = re.compile(r"(?P<by>\S+) \S+ has requirement (?P<wanted>.+), but you have \S+ \S+\.")


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
    """What is required by ``root`` or ColossalAI, directly or not, and is not there as required.

    Markers and extras are taken into account; what ColossalAI requires and is passed over on
    purpose is left out. Without the package ``packaging``, which pip and transformers bring,
    nothing can be compared and only that is said.
    """
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [Clash("packaging", "", "this check", None)]
    roots = [root] if _distribution(root) is not None else list(_ROOTS)
    found = {name: Clash(name, "", root, None) for name in roots if _distribution(name) is None}
    pending = [(name, frozenset[str]()) for name in (*roots, "colossalai")]
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        item = pending.pop()
        distribution = _distribution(item[0])
        if item in seen or distribution is None:
            continue
        seen.add(item)
        meant = passed_over() if item[0] == "colossalai" else ()
        for line in distribution.requires or ():
            wanted = Requirement(line)
            if not _applies(wanted, item[1]) or _listed(meant, wanted):
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


def judge(complaints: Iterable[str]) -> tuple[list[str], list[PassedOver]]:
    """Divide the lines of ``pip check``.

    Returns:
        The lines that nobody expects, and what is listed as passed over and is not complained
        about; what is listed as optional is never among these.
    """
    unexpected, met = [], {entry for entry in passed_over() if entry.kind != "optional"}
    for line in complaints:
        known = _meant_by(line)
        if known is None:
            unexpected.append(line)
        else:
            met.discard(known)
    return unexpected, [entry for entry in passed_over() if entry in met]


def _meant_by(line: str) -> PassedOver | None:
    """The entry of the list that a line of ``pip check`` is about."""
    from packaging.requirements import Requirement

    missing, other = _MISSING.fullmatch(line), _OTHER.fullmatch(line)
    match = missing or other
    if match is None or plain_name(match["by"]) != "colossalai":
        return None
    wanted = Requirement(match["wanted"])
    entry = _listed(passed_over(), wanted, any_version=missing is not None)
    return None if entry is None or (missing and entry.kind == "other-version") else entry


def _listed(
    entries: Iterable[PassedOver], wanted: Any, *, any_version: bool = False
) -> PassedOver | None:
    """The entry with this requirement; ``pip check`` leaves out the version of what is missing."""
    from packaging.requirements import Requirement

    for entry in entries:
        if entry.package == plain_name(wanted.name) and (
            any_version or Requirement(entry.requirement).specifier == wanted.specifier
        ):
            return entry
    return None


def _distribution(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def _applies(wanted: Any, extras: frozenset[str]) -> bool:
    if wanted.marker is None:
        return True
    return any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _pip_check() -> Iterator[str]:
    """The complaints of ``pip check`` about this environment.

    Raises:
        OSError: pip does not run.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode not in (0, 1) or (done.returncode == 1 and not done.stdout.strip()):
        raise OSError((done.stderr.strip() or "no output").splitlines()[-1])
    if done.returncode == 1:
        yield from (line for line in done.stdout.splitlines() if line.strip())


def main() -> int:
    """Run ``pip check`` and judge what it says."""
    try:
        complaints = list(_pip_check())
    except OSError as error:
        print(f"error: pip check does not run here ({error}): mend pip", file=sys.stderr)
        return ExitCode.USAGE
    unexpected, absent = judge(complaints)
    problems = [*colossalai_problems(), *(f"pip check: {line}" for line in unexpected)]
    for line in problems:
        print(f"error: {line}", file=sys.stderr)
    if problems:
        return ExitCode.FAILED
    for entry in absent:
        print(f"note: {entry.requirement} is met here, though {FILE.name} passes it over")
    print(f"pip check: {len(complaints)} requirements of ColossalAI passed over, all on purpose")
    return 0


if __name__ == "__main__":
    sys.exit(main())
