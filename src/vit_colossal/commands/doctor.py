"""``vit-colossal doctor``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vit_colossal.config.reading import read_settings
from vit_colossal.config.settings.base import CommandSettings, alias
from vit_colossal.doctor.examine import examine
from vit_colossal.doctor.machine import Check

_COLOURS = {"ok": "32", "warn": "33", "fail": "31"}


class DoctorSettings(CommandSettings):
    """Try every part that a run needs, and say how to fix what does not work.

    Exit code 0 when training can start here, 1 when not.
    """

    as_json: bool = alias("json", default=False)
    """One JSON object instead of lines."""
    output_dir: Path = Path("runs")
    """Where runs would go."""


SETTINGS = DoctorSettings


def main(flags: Sequence[str], prog: str) -> int:
    """Examine this machine; 1 when training cannot start."""
    asked = read_settings(SETTINGS, flags, prog)
    checks = []
    for check in examine(asked.output_dir):
        checks.append(check)
        if not asked.as_json:
            print(_line(check), flush=True)
    failed = [check.name for check in checks if check.status == "fail"]
    if asked.as_json:
        values = {"can_start": not failed, "checks": [asdict(check) for check in checks]}
        print(json.dumps(values, indent=2))
    elif failed:
        print(f"training cannot start: {', '.join(dict.fromkeys(failed))}")
    else:
        print("training can start")
    return 1 if failed else 0


def _line(check: Check) -> str:
    status: str = check.status
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        status = f"\033[{_COLOURS[check.status]}m{check.status}\033[0m"
    padding = " " * (4 - len(check.status))
    fix = f"\n{'':21}fix: {check.fix}" if check.fix else ""
    return f"{status}{padding}  {check.name:<15}{check.detail}{fix}"
