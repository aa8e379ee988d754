"""The errors that are a person's to fix: short text, no traceback, one exit code each."""

from __future__ import annotations

from enum import IntEnum
from signal import SIGINT, SIGPIPE, SIGTERM


class ExitCode(IntEnum):
    """How a command ends."""

    #: Done.
    OK = 0
    #: Begun, and ended without its result: a loss that is not finite, a full disk, a defect.
    FAILED = 1
    #: Not begun: flags, files or data that a person can put right.
    USAGE = 2
    #: A result unlike the reference, or unlike its peers.
    DIFFERENT = 3
    INTERRUPTED = 128 + SIGINT
    TERMINATED = 128 + SIGTERM
    READER_GONE = 128 + SIGPIPE

    @classmethod
    def after(cls, signal: int) -> ExitCode:
        """Of a run that a signal ended; SIGUSR1 asks for the same as SIGTERM."""
        return cls.INTERRUPTED if signal == SIGINT else cls.TERMINATED


#: Codes with which a rank has said why: the launcher adds nothing.
ANSWERS = (ExitCode.USAGE, ExitCode.DIFFERENT, ExitCode.INTERRUPTED, ExitCode.TERMINATED)


class UserError(Exception):
    """A problem outside the program; its text names the value and the fix.

    The command line prints the text without a traceback and exits with ``exit_code``.
    """

    exit_code: ExitCode = ExitCode.FAILED


class ConfigError(UserError):
    """Bad usage or configuration: every problem found, one line each. Exit code 2."""

    exit_code = ExitCode.USAGE

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("\n".join(problems))


class OutOfMemory(UserError):
    """Memory ran out in a run: what was predicted, and what to change."""


class SharedProblems(ConfigError):
    """What the ranks of a run found together, and all of them know.

    The first rank of each host says it, as each host may have a terminal of its own.
    """

    def __init__(self, problems: list[str], exit_code: ExitCode = ExitCode.USAGE):
        super().__init__(problems)
        self.exit_code = exit_code


class DataError(ConfigError):
    """The data set cannot be used as given. Exit code 2."""


class ModelError(ConfigError):
    """The model cannot be used as given. Exit code 2."""


class FetchError(ModelError):
    """The model lies on the hub, and something of it cannot be had from there. Exit code 2."""
