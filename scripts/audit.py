"""Compare what is installed with the reviewed list of known advisories.

    python scripts/audit.py             offline: is the list about the versions installed here?
    python scripts/audit.py --online    ask pip-audit too: is anything known that it leaves out?

Exit code 0: nothing new. 1: a version that nobody reviewed, an advisory that is not in the list, or
a package that pip-audit could not look up. 2: the list or pip-audit cannot be read.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

LIST = Path(__file__).parents[1] / "security" / "reviewed-advisories.yaml"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", type=Path, default=LIST, help="the reviewed list")
    parser.add_argument("--online", action="store_true", help="ask pip-audit (needs the network)")
    parser.add_argument("--max-age", type=int, metavar="DAYS", help="fail if the list is older")
    flags = parser.parse_args()
    try:
        listed = yaml.safe_load(flags.list.read_text(encoding="utf-8"))
        found = compare(listed["packages"])
        age = (datetime.date.today() - listed["reviewed"]).days
        if flags.max_age is not None and age > flags.max_age:
            found.append(f"the list is {age} days old: review it again")
        if flags.online:
            answer = ask_pip_audit()
            found += unknown(listed["packages"], answer) + skipped(listed["packages"], answer)
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(f"reviewed on {listed['reviewed']}, {age} days ago")
    for line in found:
        print(f"NEW: {line}")
    return 1 if found else 0


def compare(packages: dict[str, Any]) -> list[str]:
    """Print the advisories that apply to what is installed; return what nobody has reviewed.

    Args:
        packages: by name, the reviewed ``versions`` and their ``advisories``.
    """
    new = []
    for name, entry in packages.items():
        try:
            installed = Version(metadata.version(name)).base_version
        except metadata.PackageNotFoundError:
            print(f"{name}: not installed")
            continue
        applying = [item for item in entry["advisories"] if applies(item, installed)]
        print(f"{name} {installed}: {len(applying)} known, reviewed")
        for item in applying:
            print(f"  {item['id']}: {item['what']}\n    -> {' '.join(item['answer'].split())}")
        if not SpecifierSet(entry["versions"]).contains(installed, prereleases=True):
            new.append(f"{name} {installed} is installed, {entry['versions']} was reviewed")
    return new


def applies(advisory: dict[str, Any], installed: str) -> bool:
    """Whether the installed version is older than the fix, if there is one."""
    fixed = advisory["fixed"]
    return fixed is None or Version(installed) < Version(str(fixed))


def ask_pip_audit() -> list[dict[str, Any]]:
    """What pip-audit knows about this environment: one entry per package.

    Raises:
        OSError: it cannot be run, or has no answer.
    """
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    try:
        answer: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        reason = (done.stderr.strip() or "no output").splitlines()[-1]
        raise OSError(f"pip-audit did not answer ({reason}): pip install pip-audit") from None
    return answer


def unknown(packages: dict[str, Any], answer: list[dict[str, Any]]) -> list[str]:
    """The advisories that are not in the list, under any of their names."""
    reviewed = {
        name
        for entry in packages.values()
        for item in entry["advisories"]
        for name in (item["id"], *item.get("aliases", []))
    }
    return [
        f"{package['name']} {package['version']}: {item['id']} (fixed in "
        f"{', '.join(item.get('fix_versions', [])) or 'no release'})"
        for package in answer
        for item in package.get("vulns", [])
        if not reviewed & {item["id"], *item.get("aliases", [])}
    ]


def skipped(packages: dict[str, Any], answer: list[dict[str, Any]]) -> list[str]:
    """The packages of the list about which pip-audit had nothing to say, good or bad."""
    names = {canonicalize_name(name) for name in packages}
    return [
        f"{package['name']}: pip-audit could not look it up ({package['skip_reason']})"
        for package in answer
        if "skip_reason" in package and canonicalize_name(package["name"]) in names
    ]


if __name__ == "__main__":
    sys.exit(main())
