"""``vit-colossal check``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic_settings import CliPositionalArg

from vit_colossal.config.reading import read_settings
from vit_colossal.config.settings.base import CommandSettings
from vit_colossal.errors import ConfigError, ExitCode


class CheckSettings(CommandSettings):
    """Judge a run directory, or record some as a reference."""

    run_dir: CliPositionalArg[list[Path]]
    """A finished run; several only with --record."""
    reference: str | None = None
    """The name of the reference; default: the one that matches."""
    references: Path | None = None
    """A file of references; default: the package's."""
    record: str | None = None
    """Write this entry from the runs."""
    command: str | None = None
    """With --record: what made a run."""


SETTINGS = CheckSettings


def main(flags: Sequence[str], prog: str) -> int:
    """Judge a run directory, or record some as a reference."""
    asked = read_settings(SETTINGS, flags, prog)
    if (asked.record is None) != (asked.command is None):
        raise ConfigError(["--record and --command go together"])
    if asked.record is not None and asked.reference is not None:
        raise ConfigError(["--record and --reference exclude each other"])
    from vit_colossal.rundir.regression import check_run, record

    if asked.record is not None and asked.command is not None:
        entry = record(asked.record, asked.run_dir, asked.command, asked.references)
        print(f"recorded {entry.name}: accuracy {entry.value} over {len(entry.results)} runs")
        return ExitCode.OK
    if len(asked.run_dir) > 1:
        raise ConfigError(["one RUN_DIR at a time"])
    verdict = check_run(asked.run_dir[0], asked.reference, asked.references)
    print(verdict)
    return ExitCode.OK if verdict.passed else ExitCode.DIFFERENT
