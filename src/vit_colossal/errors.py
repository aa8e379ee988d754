"""The errors that are a person's to fix: short text, no traceback, one exit code each."""

from __future__ import annotations


class UserError(Exception):
    """A problem outside the program; its text names the value and the fix.

    The command line prints the text without a traceback and exits with ``exit_code``.
    """

    exit_code = 1


class ConfigError(UserError):
    """Bad usage or configuration: every problem found, one line each. Exit code 2."""

    exit_code = 2

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("\n".join(problems))


class DataError(ConfigError):
    """The data set cannot be used as given. Exit code 2."""


class ModelError(ConfigError):
    """The model cannot be used as given. Exit code 2."""
