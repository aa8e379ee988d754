"""``vit-colossal report``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vit_colossal.errors import ConfigError
from vit_colossal.plan import run_folder
from vit_colossal.report.page import write_report


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The flags of this command."""
    parser = argparse.ArgumentParser(prog, description=main.__doc__, allow_abbrev=False)
    parser.add_argument("run_dir", nargs="+", type=Path, help="finished, still going or dead")
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="default RUN_DIR/report.html; needed for several runs",
    )
    parser.add_argument("--reference", metavar="NAME", help="default: the one that matches")
    parser.add_argument("--references", metavar="FILE", type=Path, help="default: the package's")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def main(flags: Sequence[str], prog: str) -> int:
    """Write one HTML page about a run, or about several side by side."""
    parser = build_parser(prog)
    asked = parser.parse_args(flags)
    if len(asked.run_dir) > 1 and asked.output is None:
        parser.error("several runs need --output FILE")
    output = asked.output or asked.run_dir[0] / run_folder.REPORT
    try:
        write_report(asked.run_dir, output, asked.reference, asked.references)
    except OSError as error:
        raise ConfigError([f"--output {output}: cannot be written ({error.strerror})"]) from None
    print(f"report written to {output} ({output.stat().st_size / 1024:.0f} KiB)")
    return 0
