"""One command in this process: what went wrong becomes a message and an exit code."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from vit_colossal.commands.names import SLOW_TO_START, WITHOUT_TORCH
from vit_colossal.errors import ConfigError, ExitCode, SharedProblems, UserError
from vit_colossal.runtime.interpreter import (
    end_with_parent,
    keep_threads_awake,
    without_collecting,
)
from vit_colossal.text import SafeFormatter, hide_secrets, printable

#: Ranks find a problem within moments of each other; a rank on another host hears of it later.
_RANK_0_SPEAKS_WITHIN_S = 10


def show_life(name: str, flags: Sequence[str]) -> None:
    """Tell a person at a terminal at once that the command has begun."""
    asks = not {"-h", "--help"}.isdisjoint(flags)
    is_first = os.environ.get("RANK", "0") == "0"
    if name in SLOW_TO_START and is_first and not asks and sys.stderr.isatty():
        print("loading PyTorch and ColossalAI ...", file=sys.stderr)


def run_command(name: str, flags: Sequence[str], prog: str) -> int:
    """Run a command in this process, and map errors to codes."""
    debug = "--debug" in flags
    keep_threads_awake()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # torchrun may be killed long before training begins to look after it.
        end_with_parent(os.getppid())
    try:
        if name not in WITHOUT_TORCH:
            _require_temporary_folder()
            _set_up_logging(debug)
        # Imported when asked for: no command pays for what another one needs.
        with without_collecting():
            command = import_module(f"vit_colossal.commands.{name}")
        return _answer(command, flags, prog)
    except UserError as error:
        if debug:
            print(hide_secrets(traceback.format_exc()), end="", file=sys.stderr)
        elif _speaks_for_all(error):
            _print_error(error)
        elif not _rank_0_ends_the_run() and not isinstance(error, SharedProblems):
            _print_error(error, by=f" on rank {os.environ['RANK']} ({socket.gethostname()})")
        return error.exit_code
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has enough. Python would complain at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.READER_GONE
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if debug or package == "vit_colossal":
            return _not_foreseen()
        print(f"error: {error}: run 'vit-colossal doctor' for what to do", file=sys.stderr)
        return ExitCode.FAILED
    except Exception:
        return _not_foreseen()


def _require_temporary_folder() -> None:
    """Raise ConfigError where there is none: PyTorch's imports would fail for want of it."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise ConfigError(
            [f"{error.strerror}: set TMPDIR to a folder that can be written to"]
        ) from None


def _answer(command: ModuleType, flags: Sequence[str], prog: str) -> int:
    """What the command returns; a file or folder of somebody else is a problem as any other."""
    try:
        return int(command.main(flags, prog))
    except PermissionError as error:
        if error.filename is None:
            raise
        advice = "name what you may read and write, or change its permissions"
        raise ConfigError([f"{error.filename}: {error.strerror}: {advice}"]) from error


def _not_foreseen() -> int:
    """Print the traceback of the current exception, which Python would print with its secrets."""
    print(hide_secrets(traceback.format_exc()), end="", file=sys.stderr)
    return ExitCode.FAILED


def _speaks_for_all(error: UserError) -> bool:
    """Whether what is wrong would otherwise be said by another rank, or by none."""
    if isinstance(error, SharedProblems):
        return os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")) == "0"
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "0")
    numbers = rank.isdecimal() and world.isdecimal()
    return not numbers or int(rank) == 0 or int(rank) >= int(world)


def _rank_0_ends_the_run() -> bool:
    """Wait until the launcher ends this process, which it does once rank 0 has failed as well.

    Rank 0, or the first one of this host, says what all found. Were this rank to end first, that
    one would be ended before it has said anything. Where nothing comes, the problem is this rank's
    alone.
    """
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    return ended.wait(_RANK_0_SPEAKS_WITHIN_S)


def _print_error(error: UserError, by: str = "") -> None:
    # A file's name may hold what ends a line or steers a terminal.
    found = error.problems if isinstance(error, ConfigError) else str(error).splitlines()
    lines = [printable(hide_secrets(line)) for line in found]
    # A line that begins with blanks goes on with the problem before it.
    count = sum(not line.startswith("  ") for line in lines)
    if count == 1:
        print(f"error{by}: {lines[0]}", *lines[1:], sep="\n", file=sys.stderr)
        return
    print(f"error{by}: {count} problems:", file=sys.stderr)
    for line in lines:
        print(f"  {line}" if line.startswith("  ") else f"  - {line}", file=sys.stderr)


def _set_up_logging(debug: bool) -> None:
    from vit_colossal.rundir.log_lines import TqdmHandler

    handler = TqdmHandler()
    handler.setFormatter(SafeFormatter("%(message)s"))
    logger = logging.getLogger("vit_colossal")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False
