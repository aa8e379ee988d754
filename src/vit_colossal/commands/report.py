"""``vit-colossal report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic_settings import CliPositionalArg

from vit_colossal.config.reading import read_settings
from vit_colossal.config.settings.base import CommandSettings
from vit_colossal.errors import ConfigError
from vit_colossal.plan import run_folder
from vit_colossal.text import printable


class ReportSettings(CommandSettings):
    """Write one HTML page about a run, or about several side by side."""

    run_dir: CliPositionalArg[list[Path]]
    """Run directories: finished, still going or dead."""
    output: Path | None = None
    """The page; default RUN_DIR/report.html; needed for several runs."""
    reference: str | None = None
    """The name of a reference; default: the one that matches."""
    references: Path | None = None
    """A file of references; default: the package's."""


SETTINGS = ReportSettings


def main(flags: Sequence[str], prog: str) -> int:
    """Write one HTML page about a run, or about several side by side."""
    asked = read_settings(SETTINGS, flags, prog)
    if len(asked.run_dir) > 1 and asked.output is None:
        raise ConfigError(["several runs need --output FILE"])
    output = asked.output or asked.run_dir[0] / run_folder.REPORT
    from vit_colossal.report.page import write_report

    try:
        write_report(asked.run_dir, output, asked.reference, asked.references)
    except OSError as error:
        raise ConfigError([f"--output {output}: cannot be written ({error.strerror})"]) from None
    print(f"report written to {printable(str(output))} ({output.stat().st_size / 1024:.0f} KiB)")
    return 0
