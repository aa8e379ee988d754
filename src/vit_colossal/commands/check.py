"""``vit-colossal check``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vit_colossal.errors import ExitCode
from vit_colossal.rundir.regression import check_run, record


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The flags of this command."""
    parser = argparse.ArgumentParser(prog, description=main.__doc__, allow_abbrev=False)
    parser.add_argument("run_dir", nargs="+", type=Path, help="several only with --record")
    parser.add_argument("--reference", metavar="NAME", help="default: the one that matches")
    parser.add_argument("--references", metavar="FILE", type=Path, help="default: the package's")
    parser.add_argument("--record", metavar="NAME", help="write this entry from the runs")
    parser.add_argument("--command", metavar="TEXT", help="with --record: what made a run")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def main(flags: Sequence[str], prog: str) -> int:
    """Judge a run directory, or record some as a reference."""
    parser = build_parser(prog)
    asked = parser.parse_args(flags)
    if (asked.record is None) != (asked.command is None):
        parser.error("--record and --command go together")
    if asked.record is not None and asked.reference is not None:
        parser.error("--record and --reference exclude each other")
    if asked.record is not None:
        entry = record(asked.record, asked.run_dir, asked.command, asked.references)
        print(f"recorded {entry.name}: accuracy {entry.value} over {len(entry.results)} runs")
        return 0
    if len(asked.run_dir) > 1:
        parser.error("one RUN_DIR at a time")
    verdict = check_run(asked.run_dir[0], asked.reference, asked.references)
    print(verdict)
    return ExitCode.OK if verdict.passed else ExitCode.DIFFERENT
