"""The command line: ``vit-colossal COMMAND``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from vit_colossal.commands.names import SUMMARIES, USAGE
from vit_colossal.commands.run import run_command, show_life
from vit_colossal.errors import ExitCode
from vit_colossal.runtime.interpreter import leave
from vit_colossal.version import __version__


def start() -> NoReturn:
    """What the console script calls."""
    leave(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, as `errors.ExitCode` lists them."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return ExitCode.OK if arguments else ExitCode.USAGE
    if arguments[0] == "--version":
        print(f"vit-colossal {__version__}")
        return ExitCode.OK
    name, *flags = arguments
    if name not in SUMMARIES:
        print(f"error: no command {name!r}\n\n{USAGE}", file=sys.stderr)
        return ExitCode.USAGE
    show_life(name, flags)
    return run_command(name, flags, prog=f"vit-colossal {name}")
